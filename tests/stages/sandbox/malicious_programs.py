"""Programs that try to escape from a jail, to change things outside, or to exhaust resources.

Each prints "GOT ..." if it reached something that it should not. They begin with `PREAMBLE`, formatted with
the targets outside: a secret, a folder, servers, a process.
"""

from __future__ import annotations

from collections.abc import Mapping

PREAMBLE = """
import ctypes, errno, os, signal, sys, time
TOKEN, FOLDER, LIBRARY = {token!r}, {folder!r}, os.__file__
MACHINE = os.uname().machine
SECRET, PORT, OUTSIDE = FOLDER + "/secret", {port}, {outside}
NUMBERS = {numbers!r}
libc = ctypes.CDLL(None, use_errno=True)

def attempt(action, *arguments):
    try:
        got = action(*arguments)
    except Exception as error:
        print(type(error).__name__)
    else:
        print("GOT", got)

def read(path):
    with open(path, "rb") as file:
        return file.read()

def write(path, mode="w"):
    with open(path, mode) as file:
        file.write(TOKEN)
    return path

def call(name, *arguments):
    number = name if isinstance(name, int) else NUMBERS[name][MACHINE == "aarch64"]
    arguments = [ctypes.c_long(x) if isinstance(x, int) else x for x in arguments]
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if number < 0 or result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result
"""

# fmt: off
NUMBERS: Mapping[str, tuple[int, int]] = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "capset": (126, 91), "chroot": (161, 51),
    "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435), "delete_module": (176, 106),
    "execve": (59, 221), "execveat": (322, 281), "fanotify_init": (300, 262), "finit_module": (313, 273),
    "fork": (57, -1), "fsopen": (430, 430), "init_module": (175, 105), "inotify_init1": (294, 26),
    "io_uring_setup": (425, 425), "ioperm": (173, -1), "iopl": (172, -1), "ioprio_set": (251, 30),
    "kcmp": (312, 272), "kexec_load": (246, 104), "keyctl": (250, 219), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "migrate_pages": (256, 238), "mlockall": (151, 230),
    "modify_ldt": (154, -1), "mount": (165, 40), "mq_open": (240, 180), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "openat": (257, 56), "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prctl": (157, 167),
    "prlimit64": (302, 261), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138), "sched_setscheduler": (144, 119), "seccomp": (317, 277),
    "semget": (64, 190), "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268),
    "setpriority": (141, 140), "settimeofday": (164, 170), "setxattr": (188, 5), "shmget": (29, 194),
    "socket": (41, 198), "swapon": (167, 224), "syslog": (103, 116), "tgkill": (234, 131),
    "tkill": (200, 130), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282),
    "vhangup": (153, 58), "vmsplice": (278, 75),
}
# fmt: on
"""System calls by number, on x86_64 and aarch64; -1 where there is none."""

TEXT = r"""
### read the list of users
attempt(read, "/etc/passwd")
### read the passwords
attempt(read, "/etc/shadow")
### read a secret file
attempt(read, SECRET)
### read a secret file by os.open
attempt(lambda: os.read(os.open(SECRET, os.O_RDONLY), 99))
### read a secret file by a system call
attempt(lambda: os.read(call("openat", -100, SECRET.encode(), 0), 99))
### read a secret file by io
import io, codecs, _io
for action in (io.FileIO, codecs.open, _io.open_code, io.open_code): attempt(lambda: action(SECRET).read())
### read a secret file through linecache and runpy
import linecache, runpy
if linecache.getlines(SECRET): print("GOT it")
attempt(runpy.run_path, SECRET)
### import what lies outside
sys.path.append(FOLDER)
attempt(__import__, "secret_module")
### list the root
attempt(os.listdir, "/")
### list homes
for path in ("/home", "/root", os.path.expanduser("~"), "/var", "/etc", "/mnt", "/srv", "/boot", "/opt"):
    attempt(os.listdir, path)
### escape out by dots
attempt(read, "/tmp/" + "../" * 30 + "etc/passwd")
attempt(read, "../" * 30 + SECRET)
### environment
print(dict(os.environ), [os.getenv(name) for name in ("HOME", "PATH", "SECRET")])
### environment in memory
pointer = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
i = 0
while pointer and pointer[i]:
    print(pointer[i]); i += 1
### environment on the stack
attempt(lambda: read("/proc/self/environ"))
base = ctypes.addressof(ctypes.c_char_p.in_dll(libc, "environ"))
page = id(sys) & ~4095
print(ctypes.string_at(page, 4096).count(b"SECRET="))
### environments of others
for pid in (1, 2, OUTSIDE, "self", "thread-self"):
    for name in ("environ", "cmdline", "maps", "mem", "fd", "cwd", "root/etc/passwd"):
        attempt(read, f"/proc/{pid}/{name}")
### kernel's own files
paths = "/proc/kcore /proc/kallsyms /proc/sys/kernel/core_pattern /sys/kernel /proc/sysrq-trigger"
for path in paths.split():
    attempt(read, path); attempt(os.listdir, path)
### mount proc oneself
os.mkdir("/tmp/p")
attempt(call, "mount", b"proc", b"/tmp/p", b"proc", 0, None)
### write into a folder outside
attempt(write, FOLDER + "/" + TOKEN)
### write where everybody may
for folder in ("/dev/shm", "/var/tmp", "/run", "/run/lock", "/dev"): attempt(write, f"{folder}/{TOKEN}")
### write into its own /tmp, which is no other's
write("/tmp/" + TOKEN); os.mkdir("/tmp/folder-" + TOKEN); os.symlink("/etc", "/tmp/link-" + TOKEN)
### write into the root
for path in ("/" + TOKEN, "/tmp/../" + TOKEN, "/usr/" + TOKEN, "/dev/null/" + TOKEN): attempt(write, path)
### write into the folder where it was started
os.chdir("/")
attempt(write, TOKEN)
### change a library
for mode in ("a", "w", "r+"): attempt(write, LIBRARY, mode)
### truncate a library
attempt(os.truncate, LIBRARY, 0)
### rename a library
attempt(os.rename, LIBRARY, LIBRARY + TOKEN)
attempt(os.rename, LIBRARY, "/tmp/os.py")
### delete a library
attempt(os.unlink, LIBRARY)
import shutil
shutil.rmtree(os.path.dirname(LIBRARY), ignore_errors=True)
### poison compiled libraries
attempt(write, os.path.dirname(LIBRARY) + "/__pycache__/" + TOKEN + ".pyc")
import py_compile
attempt(py_compile.compile, LIBRARY, None, None, True)
### rights of a library
attempt(os.chmod, LIBRARY, 0o777); attempt(lambda: os.fchmod(os.open(LIBRARY, os.O_RDONLY), 0o777))
### owner of a library
for action in (os.chown, os.lchown): attempt(action, LIBRARY, os.getuid(), os.getgid())
### times of a library
attempt(os.utime, LIBRARY, (0, 0))
### attributes of a library
attempt(call, "setxattr", LIBRARY.encode(), b"user.a", b"b", 1, 0)
attempt(os.setxattr, "/tmp", b"user.a", b"b")
### a library's hard link, then changed
attempt(os.link, LIBRARY, "/tmp/library")
attempt(write, "/tmp/library", "r+")
### a link out
for target in ("/etc/passwd", SECRET, "/proc/self/root/etc/passwd"):
    os.symlink(target, f"/tmp/{abs(hash(target))}"); attempt(read, f"/tmp/{abs(hash(target))}")
### a lock on a library
import fcntl
file = open(LIBRARY)
attempt(fcntl.flock, file, fcntl.LOCK_EX)
attempt(fcntl.fcntl, file, 1024, fcntl.F_WRLCK)
### watch folders
import fcntl
attempt(fcntl.fcntl, os.open("/tmp", os.O_RDONLY), fcntl.F_NOTIFY, 1)
attempt(call, "inotify_init1", 0); attempt(call, "fanotify_init", 0, 0)
### inherited descriptors
for fd in range(3, 2000):
    try: print("GOT", fd, os.read(fd, 99))
    except OSError: pass
### write to inherited descriptors
for fd in range(3, 2000):
    try: print("GOT", fd, os.write(fd, b"GOT"))
    except OSError: pass
### folders among the descriptors
for fd in range(2000):
    for path in ("etc/passwd", "../etc/passwd", SECRET[1:]):
        try: print("GOT", os.open(path, os.O_RDONLY, dir_fd=fd))
        except OSError: pass
### the input's file
attempt(os.write, 0, b"x")
if got := os.read(0, 99): print("GOT", got)
os.lseek(0, 0, 0)
if got := os.read(0, 99): print("GOT", got)
### descriptors by path
for fd in range(9): attempt(read, f"/dev/fd/{fd}"); attempt(read, f"/proc/self/fd/{fd}")
### the output's rights
for fd in (1, 2): attempt(os.fchmod, fd, 0); attempt(os.fchown, fd, 0, 0)
### handles of files
handle, mount_id = ctypes.create_string_buffer(200), ctypes.create_string_buffer(9)
attempt(call, "name_to_handle_at", -100, b"/tmp", handle, mount_id, 0)
attempt(call, "open_by_handle_at", 0, ctypes.create_string_buffer(200), 0)
### devices
names = "mem kmem port kmsg sda vda nvme0n1 tty console ptmx kvm fuse loop-control net/tun nvidia0 random"
names += " full"
for name in names.split():
    attempt(os.open, "/dev/" + name, os.O_RDWR)
### make devices
import stat
for kind in (stat.S_IFCHR, stat.S_IFBLK): attempt(os.mknod, f"/tmp/{kind}", kind | 0o666, os.makedev(1, 1))
### make a pipe with a name, and a socket
import stat
attempt(os.mkfifo, "/tmp/fifo"); attempt(os.mknod, "/tmp/socket", stat.S_IFSOCK | 0o666)
### a program of one's own
with open("/tmp/run", "w") as file: file.write("#!/bin/sh\necho GOT")
attempt(os.chmod, "/tmp/run", 0o755)
attempt(os.execv, "/tmp/run", ["run"])
attempt(os.execv, "/lib64/ld-linux-x86-64.so.2", ["ld", "/tmp/run"])
### a program in memory
attempt(call, "memfd_create", b"x", 0)
attempt(os.memfd_create, "x")
### a library of one's own
with open("/tmp/x.so", "wb") as file: file.write(b"\x7fELF" + bytes(999))
attempt(ctypes.CDLL, "/tmp/x.so")
### map a file to execute it
import mmap
with open("/tmp/code", "wb") as file: file.write(b"\xc3" * 4096)
file = os.open("/tmp/code", os.O_RDONLY)
attempt(mmap.mmap, file, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
### connect by TCP
import socket
attempt(socket.create_connection, ("127.0.0.1", PORT), 1)
### connect by TCP, IPv6
import socket
attempt(lambda: socket.socket(socket.AF_INET6).connect(("::1", PORT)))
### send by UDP
import socket
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"GOT", ("127.0.0.1", PORT)))
### serve TCP
import socket
attempt(socket.create_server, ("", 0))
### connect to a local socket
import socket
attempt(lambda: socket.socket(socket.AF_UNIX).connect(FOLDER + "/socket"))
### connect to an abstract socket
import socket
attempt(lambda: socket.socket(socket.AF_UNIX).connect("\0" + TOKEN))
### raw sockets
import socket
for family in (socket.AF_INET, socket.AF_PACKET): attempt(socket.socket, family, socket.SOCK_RAW, 255)
### kernel sockets
import socket
for family in (socket.AF_NETLINK, socket.AF_ALG, socket.AF_VSOCK, socket.AF_CAN, 31, 44):
    attempt(socket.socket, family, socket.SOCK_RAW, 0)
### sockets by number
for family in range(46):
    for kind in range(1, 6): attempt(call, "socket", family, kind, 0)
### pairs of sockets
import socket
attempt(socket.socketpair)
### fetch a page
import urllib.request
attempt(urllib.request.urlopen, f"http://127.0.0.1:{PORT}", None, 1)
### ask for a name
import socket
attempt(socket.gethostbyname, "example.com")
attempt(socket.if_nameindex)
### asyncio
import asyncio
attempt(lambda: asyncio.run(asyncio.open_connection("127.0.0.1", PORT)))
### fork
def child():
    if os.fork() == 0: os._exit(0)
    return "a child"
attempt(child)
### fork bomb
for _ in range(100000):
    try: os.fork(); print("GOT a child")
    except OSError: pass
### fork by system calls
attempt(lambda: call("fork") or os._exit(0))
for flags in (17, 0x10000011, 0x100): attempt(lambda: call("clone", flags, 0, 0, 0, 0) or os._exit(0))
### clone3
arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)
attempt(lambda: call("clone3", arguments, 88) or os._exit(0))
### threads with new namespaces
for flag in (0x00020000, 0x10000000, 0x20000000, 0x40000000, 0x4000, 0x2000):
    attempt(lambda: call("clone", 0x00010f00 | flag, 0, 0, 0, 0) or os._exit(0))
### vfork
attempt(lambda: libc.vfork() == -1 and 1 / 0 or os._exit(0))
### posix_spawn
attempt(os.posix_spawn, "/bin/sh", ["sh", "-c", f"touch /tmp/{TOKEN}"], {})
### subprocess
import subprocess
attempt(lambda: subprocess.check_output(f"touch /tmp/{TOKEN}", shell=True))
attempt(subprocess.check_output, [sys.executable, "-c", "1"])
### os.system
if os.system(f"touch /tmp/{TOKEN}") == 0: print("GOT a shell")
### posix.system
import posix
if posix.system(f"touch /tmp/{TOKEN}") == 0: print("GOT a shell")
### os.popen
attempt(lambda: os.popen("id").read() or 1 / 0)
### system by ctypes
if libc.system(b"id") == 0: print("GOT a shell")
### execve
for path in ("/bin/sh", "/usr/bin/env", sys.executable, LIBRARY): attempt(os.execve, path, ["x"], {})
attempt(call, "execve", b"/bin/sh", None, None); attempt(call, "execveat", 0, b"", None, None, 0x1000)
### multiprocessing
import multiprocessing
for method in ("fork", "spawn", "forkserver"):
    attempt(lambda: multiprocessing.get_context(method).Process(target=print).start())
### a daemon
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(60)
        os._exit(0)
attempt(daemon)
### a session of one's own, asleep
attempt(os.setsid)
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
time.sleep(60)
### a terminal
import pty
attempt(os.openpty); attempt(pty.fork)
### thread bomb
import threading
try:
    while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
except RuntimeError: print("enough")
os._exit(0)
### thread bomb of small ones
import threading
threading.stack_size(32768)
try:
    while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
except RuntimeError: print("enough")
os._exit(0)
### kill the supervisor
for number in (signal.SIGTERM, signal.SIGKILL): attempt(os.kill, OUTSIDE, number)
### kill the parent
attempt(os.kill, os.getppid(), signal.SIGKILL); attempt(os.kill, 0, signal.SIGTERM)
### signal everybody
attempt(os.kill, -1, signal.SIGCONT)
### signal groups
for group in (0, 1, OUTSIDE, os.getpgrp()): attempt(os.killpg, group, signal.SIGCONT)
### signal threads
for name in ("tgkill", "tkill", "rt_sigqueueinfo"): attempt(call, name, OUTSIDE, OUTSIDE, signal.SIGTERM)
### signal by a descriptor
attempt(call, "pidfd_open", OUTSIDE, 0)
attempt(call, "pidfd_send_signal", 0, signal.SIGTERM, None, 0); attempt(call, "pidfd_getfd", 0, 0, 0)
### signal by a file
import fcntl
r, w = os.pipe()
attempt(fcntl.fcntl, r, fcntl.F_SETOWN, OUTSIDE); attempt(fcntl.fcntl, r, 10, signal.SIGTERM)
### stop
attempt(os.kill, os.getpid(), signal.SIGSTOP)
### ignore every signal, and spin
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
### signals that come again
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
while True: time.sleep(1)
### trace
for request in (0, 16, 0x4206): attempt(call, "ptrace", request, OUTSIDE, 0, 0)
### memory of others
part = (ctypes.c_uint64 * 2)(id(sys), 16)
for name in ("process_vm_readv", "process_vm_writev"): attempt(call, name, OUTSIDE, part, 1, part, 1, 0)
attempt(call, "kcmp", OUTSIDE, os.getpid(), 0, 0, 0)
### pages of others
attempt(call, "migrate_pages", OUTSIDE, 1, ctypes.create_string_buffer(8), ctypes.create_string_buffer(8))
### mount
os.mkdir("/tmp/m")
for kind in (b"tmpfs", b"sysfs", b"devtmpfs", b"overlay"):
    attempt(call, "mount", kind, b"/tmp/m", kind, 0, None)
### bind
os.mkdir("/tmp/m")
attempt(call, "mount", b"/", b"/tmp/m", None, 0x1000, None)
attempt(call, "mount", None, b"/", None, 0x20 | 0x1000, None)
### unmount
for path in ("/", "/tmp", os.path.dirname(LIBRARY), "/dev/null", "/proc"):
    attempt(call, "umount2", path.encode(), 2)
### new mounts
attempt(call, "fsopen", b"tmpfs", 0); attempt(call, "open_tree", -100, b"/", 1)
### another root
os.mkdir("/tmp/r")
attempt(call, "pivot_root", b"/tmp/r", b"/tmp/r")
attempt(os.chroot, "/tmp/r"); attempt(call, "chroot", b"/tmp/r")
### new namespaces
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x10020000): attempt(call, "unshare", flag)
### other namespaces
for fd in range(10): attempt(call, "setns", fd, 0)
### host name
attempt(call, "sethostname", TOKEN.encode(), 4); attempt(call, "setdomainname", TOKEN.encode(), 4)
### clock
attempt(time.clock_settime, time.CLOCK_REALTIME, 0)
attempt(call, "settimeofday", (ctypes.c_long * 2)(0, 0), None)
### reboot
attempt(call, "reboot", 0xfee1dead, 672274793, 0, None)
### another kernel
attempt(call, "kexec_load", 0, 0, None, 0); attempt(call, "init_module", b"", 0, b"")
attempt(call, "finit_module", 0, b"", 0); attempt(call, "delete_module", b"x", 0)
### bpf
attempt(call, "bpf", 0, ctypes.create_string_buffer(128), 128)
### perf
attempt(call, "perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0)
### userfaultfd
for flags in (0, 1): attempt(call, "userfaultfd", flags)
### io_uring
attempt(call, "io_uring_setup", 4, ctypes.create_string_buffer(200))
### keys
attempt(call, "keyctl", 0, -3, 1); attempt(call, "add_key", b"user", TOKEN.encode(), b"x", 1, -3)
attempt(call, "request_key", b"user", TOKEN.encode(), None, 0)
### secret memory
attempt(call, "memfd_secret", 0)
### shared memory
attempt(call, "shmget", 0x5EC2E7, 4096, 0o1666)
### shared memory by name
from multiprocessing import shared_memory
attempt(lambda: shared_memory.SharedMemory(TOKEN, create=True, size=64))
### semaphores and queues
attempt(call, "semget", 0x5EC2E7, 1, 0o1666); attempt(call, "msgget", 0x5EC2E7, 0o1666)
attempt(call, "mq_open", TOKEN.encode(), 0o102, 0o666, None)
### swap, accounts, quotas
attempt(call, "swapon", b"/tmp", 0); attempt(call, "acct", b"/tmp/a")
attempt(call, "quotactl", 0x800002 << 8, b"/", 0, None)
### the kernel's log
attempt(call, "syslog", 3, ctypes.create_string_buffer(99), 99)
### ports
attempt(call, "iopl", 3); attempt(call, "ioperm", 0, 9, 1)
### segments
attempt(call, "modify_ldt", 0, ctypes.create_string_buffer(99), 99)
### personality
attempt(call, "personality", 0x0040000)
### another filter
attempt(call, "seccomp", 1, 0, None); attempt(call, "prctl", 22, 2, None, 0, 0)
### switches of the process
for option in (1, 4, 8, 23, 24, 26, 28, 33, 35, 36, 38, 41, 47, 53, 55, 59, 62, 65, 0x59616d61):
    for value in (0, 1, 2): attempt(call, "prctl", option, value, 0, 0, 0)
### type into a terminal
import fcntl
for fd in range(3):
    for request in (0x5412, 0x540E, 0x5414, 0x541D, 0x5423): attempt(fcntl.ioctl, fd, request, b"x" * 16)
### be root
for action in (os.setuid, os.setgid, os.seteuid, os.setegid): attempt(action, 0)
attempt(os.setresuid, 0, 0, 0); attempt(os.setgroups, [0])
### capabilities
attempt(call, "capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xffffffff] * 6))
### higher limits
import resource
for which in range(16):
    low, high = resource.getrlimit(which)
    if high != resource.RLIM_INFINITY: attempt(resource.setrlimit, which, (low, high + 1))
### limits of others
attempt(call, "prlimit64", OUTSIDE, 7, (ctypes.c_uint64 * 2)(3, 3), None)
### priority
attempt(os.nice, -20); attempt(call, "setpriority", 0, OUTSIDE, 19); attempt(call, "ioprio_set", 1, 0, 0)
attempt(call, "sched_setscheduler", OUTSIDE, 1, ctypes.create_string_buffer(b"\1", 8))
attempt(os.sched_setaffinity, 0, [0])
### lock memory
attempt(call, "mlockall", 3)
### hang up
attempt(call, "vhangup")
### x32
for number in (0, 2, 41, 57, 59, 520, 512): attempt(call, 0x40000000 + number, SECRET.encode(), 0, 0)
### numbers out of range
for number in (-2, 2**31, 2**32 + 41, 1000, 2**63 - 1, 600): attempt(call, number, 2, 1, 0)
### 32-bit system calls
import mmap
everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, everything)
code.write(b"\xb8\x02\x00\x00\x00\xcd\x80\xc3")  # mov eax, 2 (fork); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
if MACHINE == "x86_64": print("GOT", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
### every call, blindly
for number in range(335, 470):
    if number not in (334,): libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
### pour into pipes
r, w = os.pipe()
os.write(w, b"x")
attempt(call, "vmsplice", w, ctypes.create_string_buffer(16), 1, 0)
### a core
os.abort()
### fill memory with a list
x = []
while True: x.append([0] * 10**6)
### fill memory with text
x = "x"
while True: x += x
### fill memory by mmap
import mmap
x = []
while True: x.append(mmap.mmap(-1, 2**24)); x[-1][::4096] = b"x" * len(x[-1][::4096])
### fill memory by malloc
libc.malloc.restype = ctypes.c_void_p
while address := libc.malloc(ctypes.c_size_t(2**24)): ctypes.memset(address, 1, 2**24)
### fill memory by one demand
bytearray(2**40)
### fill memory by a stack
sys.setrecursionlimit(10**9)
def deep(x): return [deep(x + [x])]
deep([])
### fill memory from a small archive
import zlib
x = zlib.compress(bytes(2**24)); y = zlib.compress(x)
z = [zlib.decompress(zlib.decompress(y)) for _ in range(99)]
### fill memory by threads
import threading
def fill():
    x = []
    while True: x.append(bytearray(2**20))
for _ in range(8): threading.Thread(target=fill).start()
### keep every MemoryError to oneself
x = []
while True:
    try: x.append(bytearray(2**22))
    except MemoryError: pass
### fill the disk
with open("/tmp/x", "wb") as file:
    while True: file.write(bytes(2**20))
### fill the disk with many files
for i in range(10**6):
    with open(f"/tmp/{i}", "wb") as file: file.write(bytes(2**16))
### fill the disk with empty files
for i in range(10**6): open(f"/tmp/{i}", "w").close()
### fill the disk with folders
while True: os.mkdir("d"); os.chdir("d")
### fill the disk with what is deleted
x = []
while True:
    x.append(open("/tmp/x", "wb")); x[-1].write(bytes(2**20)); x[-1].flush(); os.unlink("/tmp/x")
### a file with a hole
with open("/tmp/x", "wb") as file: attempt(file.truncate, 2**40)
attempt(os.posix_fallocate, os.open("/tmp/y", os.O_CREAT | os.O_RDWR), 0, 2**36)
### open everything
x = []
while True: x.append(os.open("/dev/null", os.O_RDONLY))
### fill pipes
x = []
while True:
    x.append(os.pipe()); os.set_blocking(x[-1][1], False)
    try:
        while True: os.write(x[-1][1], bytes(65536))
    except BlockingIOError: pass
### say too much
while True: print("x" * 10**5)
### complain too much
while True: sys.stderr.write("x" * 10**5)
### say and complain too much
while True: os.write(1, b"x" * 10**5); os.write(2, b"x" * 10**5)
### say too much at once
os.write(1, bytes(10**8))
### say it slowly
while True: print("x", flush=True); time.sleep(1e-3)
### say what is no text
os.write(1, bytes(range(256))); os.write(2, b"\x1b[2J\x1b]0;title\x07 \xff\xfe")
### spin
while True: pass
### spin in C
pow(3, 10**9)
### spin in a regular expression
import re
re.match("(a+)+b", "a" * 60)
### spin with many threads
import threading
def spin():
    while True: pass
for _ in range(20): threading.Thread(target=spin).start()
### sleep
time.sleep(10**6)
### wait for oneself
import threading
lock = threading.Lock(); lock.acquire(); lock.acquire()
### wait for input
import select
select.select([os.pipe()[0]], [], [])
### catch everything
while True:
    try: raise SystemExit
    except BaseException: pass
### refuse to end: atexit
import atexit
def again():
    while True: time.sleep(1)
atexit.register(again)
### refuse to end: a thread
import threading
threading.Thread(target=time.sleep, args=(60,)).start()
### refuse to end: a destructor
class Endless:
    def __del__(self):
        while True: pass
x = Endless()
### close the outputs, and spin
for fd in range(3): os.close(fd)
while True: pass
### close everything, and end
os.closerange(0, 2000)
### close everything, and sleep
os.closerange(0, 2000)
time.sleep(60)
### crash
ctypes.string_at(0)
### crash by deep calls
def deep(): return sorted([1], key=lambda _: deep())
sys.setrecursionlimit(10**9)
deep()
### crash by bytecode
def f(): pass
f.__code__ = f.__code__.replace(co_code=b"\x64\xff" * 50, co_consts=())
f()
### end at once
os._exit(0)
### end with another code
sys.exit(77)
### trace oneself
sys.settrace(lambda *_: 1 / 0)
def f(): pass
f()
### audit hooks
sys.addaudithook(lambda *_: 1 / 0)
open("/tmp/x", "w")
### replace builtins
import builtins
builtins.open = builtins.print = builtins.__import__ = None
print("x")
### replace what runs it
frame = sys._getframe()
while frame:
    for name in list(frame.f_globals):
        if not name.startswith("__") and frame.f_back: frame.f_globals[name] = None
    frame = frame.f_back
### look for what runs it
import gc
frame, names = sys._getframe(), []
while frame: names += frame.f_globals; frame = frame.f_back
print(len(gc.get_objects()), len(names))
for thing in gc.get_objects():
    if isinstance(thing, dict) and "SECRET" in thing and thing is not globals(): print("GOT", thing)
### fault handlers
import faulthandler
faulthandler.enable(); faulthandler.dump_traceback_later(0.01)
time.sleep(0.1)
### many modules
import pkgutil
for module in list(pkgutil.iter_modules())[:40]:
    if module.name not in ("antigravity", "this", "__main__", "idlelib", "turtle"):
        try: __import__(module.name)
        except BaseException: pass
"""

PROGRAMS: Mapping[str, str] = {
    part.partition("\n")[0]: part.partition("\n")[2] for part in TEXT.split("\n### ")[1:] if part.strip()
}
"""name -> source."""
