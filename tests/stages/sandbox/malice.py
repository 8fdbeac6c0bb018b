"""Run the malicious programs in a child process, as root or as another user, and report their effects.

    python -S -c "...; malice.main(...)" FOLDER UNSAFE NAMES...

FOLDER has a copy of the sandbox's source, by whose path its processes are recognised; every user can read
it. The result is printed as JSON: {"isolation": line, "complete": bool, "effects": [...],
"outcomes": {name: [...]}}.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stages.sandbox import sandbox
from stages.sandbox.outcome import Outcome
from tests.stages.sandbox.malicious_programs import NUMBERS, PREAMBLE, PROGRAMS

NOBODY = 65534
DROP = "DROP_RIGHTS"  # in the environment: become another user first
ROOT = Path(__file__).resolve().parents[3]
TIMEOUT, MEMORY, DISK = 0.4, 2**27, 2**22
START = """
import sys
folder = sys.argv[1]
sys.path[:] = [*[path for path in sys.path if path], folder]
for name in ("stages", "stages.sandbox"):
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [folder + "/" + name.replace(".", "/")]
from tests.stages.sandbox import malice
malice.main(folder, sys.argv[2] == "unsafe", sys.argv[3:])
"""


GREEDY = """
import threading, time
threads = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
        threads += 1
except RuntimeError:
    print(threads, flush=True)
time.sleep(9)
"""
"""Program that starts as many threads as it can, and keeps them."""

THREADED = """
import threading
event = threading.Event()
threads = [threading.Thread(target=event.wait) for _ in range(20)]
for thread in threads: thread.start()
event.set()
for thread in threads: thread.join()
print("fine")
"""
"""Honest program with twenty threads."""


class Bait(NamedTuple):
    """Targets outside the jail that a program may try to reach."""

    token: str  # in the name of each target
    secret: str
    folder: Path
    servers: tuple[socket.socket, ...]  # TCP, UDP, local, abstract
    inherited: int  # a descriptor of the secret's file, which children inherit


def copy_sources(folder: Path) -> None:
    """Copy the sandbox and this module to a folder, compiled, so that every user can read them."""
    for source in ("stages/sandbox", "tests/stages/sandbox"):
        (folder / source).mkdir(parents=True)
        for path in (ROOT / source).glob("*.py"):
            shutil.copy(path, folder / source)
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def run_programs(
    folder: Path, *, as_nobody: bool = False, unsafe: bool = False, names: Sequence[str] = tuple(PROGRAMS)
) -> dict[str, Any]:
    """Run `main` in a child process; return its result. With `unsafe` programs are not isolated."""
    environment = {**os.environ, "SECRET": "secret of the environment", **({DROP: "1"} if as_nobody else {})}
    answer = subprocess.run(
        [sys.executable, "-s", "-S", "-c", START, str(folder), "unsafe" if unsafe else "safe", *names],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    return {**found, "outcomes": {name: Outcome(*outcome) for name, outcome in found["outcomes"].items()}}


def run_greedy_and_honest(folder: Path, *, as_nobody: bool = False) -> dict[str, Any]:
    """Run GREEDY and THREADED at the same time; return both outcomes."""
    environment = {**os.environ, **({DROP: "1"} if as_nobody else {})}
    start = START.replace('malice.main(folder, sys.argv[2] == "unsafe", sys.argv[3:])', "malice.run_both()")
    answer = subprocess.run(
        [sys.executable, "-s", "-S", "-c", start, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def run_both() -> None:
    """Child process of `run_greedy_and_honest`."""
    if os.environ.pop(DROP, ""):
        _drop_privileges()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    isolation = sandbox.probe()
    found: dict[str, Any] = {"isolation": isolation.line, "complete": isolation.complete}
    if isolation.complete:
        with ThreadPoolExecutor(2) as pool:
            greedy = pool.submit(sandbox.run_program, GREEDY, timeout=4.0, memory=2**34, isolation=isolation)
            time.sleep(1.5)
            honest = pool.submit(sandbox.run_program, THREADED, timeout=4.0, isolation=isolation)
            found |= {"honest": honest.result(), "greedy": greedy.result()}
    print(json.dumps(found))


def main(folder: str, unsafe: bool, names: Sequence[str]) -> None:
    """Child process of `run_programs`; with DROP set it first becomes another user and starts again."""
    if os.environ.pop(DROP, ""):
        _drop_privileges()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    isolation = sandbox.probe()
    effects, outcomes = [], {}
    if isolation.complete or unsafe:
        with _create_bait() as bait:
            before = _outside_state(bait)
            with ThreadPoolExecutor(2) as pool:

                def run(name: str) -> Outcome:
                    return sandbox.run_program(
                        _build_program(name, bait),
                        timeout=TIMEOUT,
                        memory=MEMORY,
                        disk=DISK,
                        isolation=isolation,
                        unsafe=unsafe,
                    )

                outcomes = dict(zip(names, pool.map(run, names), strict=True))
            after = _outside_state(bait)
            effects = [
                f"{name}: {before[name]} became {after[name]}"
                for name in before
                if before[name] != after[name]
            ]
            effects += [f"still running: {process}" for process in _running_processes(folder)]
            for name, outcome in outcomes.items():
                output = outcome.stdout + outcome.stderr
                if bait.secret in output or os.environ["SECRET"] in output:
                    effects.append(f"{name} told a secret")
    shortened = {
        name: outcome._replace(stdout=outcome.stdout[-300:], stderr=outcome.stderr[-300:])
        for name, outcome in outcomes.items()
    }
    found = {"isolation": isolation.line, "complete": isolation.complete}
    print(json.dumps(found | {"effects": effects, "outcomes": shortened}))


def _build_program(name: str, bait: Bait) -> str:
    port = bait.servers[0].getsockname()[1]
    return (
        PREAMBLE.format(
            token=bait.token, folder=str(bait.folder), port=port, outside=os.getpid(), numbers=dict(NUMBERS)
        )
        + PROGRAMS[name]
    )


@contextmanager
def _create_bait() -> Iterator[Bait]:
    """Create the targets, and remove them at the end."""
    token = f"bait-{os.getpid()}"
    folder = Path("/tmp", token)
    folder.mkdir()
    folder.chmod(0o777)
    secret = f"secret-{os.urandom(8).hex()}"
    (folder / "secret").write_text(secret)
    (folder / "secret_module.py").write_text(f"print({secret!r})")
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    servers[1].bind(("127.0.0.1", servers[0].getsockname()[1]))
    for address in (str(folder / "socket"), f"\0{token}"):
        servers.append(socket.socket(socket.AF_UNIX))
        servers[-1].bind(address)
        servers[-1].listen()
    for server in servers:
        server.setblocking(False)
    inherited = os.open(folder / "secret", os.O_RDWR)
    os.set_inheritable(inherited, True)
    try:
        yield Bait(token, secret, folder, tuple(servers), inherited)
    finally:
        os.close(inherited)
        for server in servers:
            server.close()
        shutil.rmtree(folder)


def _outside_state(bait: Bait) -> dict[str, Any]:
    """Everything outside that a program might change."""
    library = Path(os.__file__)
    searched = [bait.folder, Path.cwd(), library.parent, library.parent / "__pycache__"]
    searched += [Path(path) for path in ("/", "/tmp", "/dev", "/dev/shm", "/var/tmp", "/run", "/usr")]
    names = [str(path) for place in searched if place.is_dir() for path in place.glob(f"*{bait.token}*")]
    shared = [Path("/proc/sysvipc", name) for name in ("shm", "sem", "msg")]
    return {
        "folder": sorted(path.name for path in bait.folder.iterdir()),
        "secret": (bait.folder / "secret").read_text(),
        "named files": names,
        "library": (
            hashlib.sha256(library.read_bytes()).hexdigest(),
            library.stat()[:6],
            library.stat().st_mtime,
        ),
        "null": os.stat("/dev/null")[:6],
        "servers": [_was_contacted(server) for server in bait.servers],
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "host": os.uname()[1],
        "clock": abs(time.time() - time.monotonic() - _clock_offset()) < 5,
        "limits": [resource.getrlimit(which) for which in range(16)],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "shared memory": [str(0x5EC2E7) in path.read_text() for path in shared if path.exists()],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": _child_processes(),
    }


def _was_contacted(server: socket.socket) -> bool:
    """Test whether a connection or a message has arrived."""
    try:
        server.recv(1) if server.type == socket.SOCK_DGRAM else server.accept()
    except BlockingIOError:
        return False
    return True


def _clock_offset() -> float:
    """Wall-clock time at which the monotonic clock was 0, as first read by this process."""
    return float(os.environ.setdefault("CLOCK", repr(time.time() - time.monotonic())))


def _child_processes() -> list[str]:
    """Child processes of this one, zombies among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after[1]) == os.getpid():
            found.append(f"{path.parent.name} {after[0]}")
    return found


def _running_processes(folder: str) -> list[str]:
    """Processes of a jail that still run after a short wait."""
    for _ in range(50):
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if f"{folder}/stages/sandbox" in words:
                found.append(f"{path.parent.name} {words[-2]}")
        if not found:
            return []
        time.sleep(0.02)
    return found


def _drop_privileges() -> None:
    """Become a user without privileges, who can still reach the interpreter.

    In a new mount namespace, parent folders that other users cannot enter are replaced by empty ones, with
    the interpreter's folder bound into them.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*(ctypes.c_long(x) if isinstance(x, int) else x for x in arguments)) == -1:
            raise OSError(ctypes.get_errno(), name)

    call("unshare", 0x00020000)
    call("mount", None, b"/", None, 0x4000 | 0x40000, None)
    for needed in {Path(sys.base_prefix), Path(sys.prefix), Path(sys.executable).parents[1]}:
        unreachable = [path for path in reversed(needed.parents) if not path.stat().st_mode & 1]
        if unreachable:
            descriptor = os.open(needed, os.O_PATH)
            call("mount", b"tmpfs", os.fsencode(unreachable[0]), b"tmpfs", 0, b"mode=755")
            needed.mkdir(parents=True)
            source = f"/proc/self/fd/{descriptor}".encode()
            call("mount", source, os.fsencode(needed), None, 0x1000 | 0x4000, None)
            os.close(descriptor)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
