"""Runs of many processes (`stages.run.processes`, `store`, `parallel`): the numbers of one, one message.

All end with the same exit code, and no wait is without an end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import pytest
import torch

from stages.cli.main import main
from stages.run.channel import Channel
from stages.run.processes import ALONE, take_gpu
from stages.run.world import World
from tests.stages.children import join_all, limit_files, start_joined, wait_for
from tests.stages.small import flags, rows, same_run

pytestmark = pytest.mark.processes


def printed(folder: Path, ending: str) -> list[list[str]]:
    """The lines that each process printed."""
    paths = sorted(folder.glob(f"*.{ending}"))
    return [[line for line in path.read_text().splitlines() if line] for path in paths]


def assert_refused(folder: Path, arguments: list, message: str, code: int = 2, **options: object) -> None:
    """Asserts that two processes exit with `code`, and that process 0 alone prints one line with `message`."""
    assert join_all(start_joined(2, folder / "out", arguments, **options)) == [code, code]
    first, second = printed(folder / "out", "err")
    assert second == []
    assert len(first) == 1, first
    assert message in first[0], first[0]
    assert first[0].startswith("intro2llm ")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, and its text."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(["pretrain", *flags(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def two(alone: Path) -> Path:
    """The same run on two processes."""
    assert join_all(start_joined(2, alone / "out", flags(alone, output_dir=alone / "two"))) == [0, 0]
    return alone


def test_two_processes_have_the_numbers_of_one(two: Path) -> None:
    expected, got = rows(two / "run"), rows(two / "two")
    assert [row["step"] for row in got] == list(range(1, 13))
    for one, other in zip(expected, got, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-4), name
    assert json.loads((two / "two" / "metrics.jsonl").read_text().splitlines()[3])["tok_per_sec"] > 0


def test_only_the_first_process_prints(two: Path) -> None:
    first, second = printed(two / "out", "out")
    assert first[-1] == f"final model: {two / 'two' / 'final_model'} (step 12)"
    assert first[1] == "2 processes, 2 rows of each batch on each"
    assert sum(line.startswith("step 4: val_loss") for line in first) == 1
    assert second == []
    assert printed(two / "out", "err") == [[], []]


def test_a_complete_run_is_left_as_it_is_by_another_number_of_processes(two: Path) -> None:
    before = (two / "two" / "metrics.jsonl").read_bytes()
    assert main(["pretrain", *flags(two, output_dir=two / "two")]) == 0
    assert (two / "two" / "metrics.jsonl").read_bytes() == before


def start_run(folder: Path, alone: Path, **options: object) -> list:
    """Starts two processes of a run of 24 steps with a save every 5, and waits for its 7th step."""
    arguments = flags(alone, output_dir=folder / "run", max_steps=24, save_every=5, eval_every=0)
    processes = start_joined(2, folder / "out", arguments, **options)
    log = folder / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") > 6, processes[0])
    return processes


def resume(folder: Path, alone: Path) -> None:
    """Completes such a run."""
    arguments = flags(alone, output_dir=folder / "run", max_steps=24, save_every=5, eval_every=0)
    assert join_all(start_joined(2, folder / "again", arguments)) == [0, 0], printed(folder / "again", "err")


@pytest.fixture(scope="module")
def uninterrupted(alone: Path) -> Path:
    """The folder of such a run that was never interrupted."""
    resume(alone / "long", alone)
    return alone / "long" / "run"


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGTERM, (1,)), (signal.SIGINT, (0, 1))])
def test_a_signal_to_any_process_stops_all_at_one_step_and_the_run_resumes_to_the_same_bits(
    number: signal.Signals, ranks: tuple[int, ...], alone: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    processes = start_run(tmp_path, alone)
    for rank in ranks:
        os.kill(processes[rank].pid, number)
    assert join_all(processes, 20) == [128 + number] * 2, printed(tmp_path / "out", "err")
    step = rows(tmp_path / "run")[-1]["step"]
    first, second = printed(tmp_path / "out", "out")
    assert first[-1] == f"saved at step {step}; the same command resumes from there"
    assert second == []
    resume(tmp_path, alone)
    assert same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_is_killed_the_other_ends_and_the_run_resumes_to_the_same_bits(
    rank: int, alone: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    processes = start_run(tmp_path, alone)
    start = time.monotonic()
    processes[rank].kill()
    codes = join_all(processes, 20)
    assert time.monotonic() - start < 10
    assert codes[1 - rank] == 1
    (line,) = printed(tmp_path / "out", "err")[1 - rank]
    assert f"process {rank} ended without a message: it was killed" in line
    resume(tmp_path, alone)
    assert same_run(tmp_path / "run", uninterrupted)


class OwnError(BaseException):
    """An error that `except Exception` does not catch."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SystemExit(5), 5, "SystemExit ended the run with exit code 5"),
        (OwnError("mine"), 1, "process 1: OwnError: mine"),
    ],
)
def test_any_error_on_one_process_ends_all_at_once(
    error: BaseException, code: int, message: str, alone: Path, tmp_path: Path
) -> None:
    arguments = flags(alone, output_dir=tmp_path / "run")
    processes = start_joined(2, tmp_path / "out", arguments, {1: partial(raise_in_step, error)})
    assert join_all(processes, 20) == [code, code]
    assert printed(tmp_path / "out", "err")[0] == [f"intro2llm pretrain: {message}"]


def raise_in_step(error: BaseException) -> None:
    """Lets the third step of this process raise an error, while the other one waits in a collective.

    It asks the other only briefly for a cause, as there is none.
    """
    from stages.run import channel, loop

    channel.SECONDS_FOR_CAUSE = 0.3
    original = loop._step

    def failing(parts: Any, state: Any, *args: Any) -> Any:
        if int(state.step) == 2:
            raise type(error)(*error.args)  # its traceback would keep the group
        return original(parts, state, *args)

    loop._step = failing


def test_a_full_disk_on_the_first_process_ends_all_with_its_message(alone: Path, tmp_path: Path) -> None:
    arguments = flags(alone, output_dir=tmp_path / "run")
    size = len((alone / "run" / "metrics.jsonl").read_bytes()) // 2
    setups = {0: partial(limit_files, max(size, 20_000))}
    assert_refused(tmp_path, arguments, "File too large; make room there", code=1, setups=setups)


def test_text_that_cannot_be_read_ends_the_processes_that_wait_for_it(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff" * 50)
    arguments = flags(alone, output_dir=tmp_path / "run", data_path=tmp_path / "bad.txt")
    assert_refused(tmp_path, arguments, "bad.txt: byte 0xff at offset 0 is not utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_ends_during_the_preparation_ends_the_other(
    number: signal.Signals, alone: Path, tmp_path: Path
) -> None:
    arguments = flags(alone, output_dir=tmp_path / "run")
    processes = start_joined(2, tmp_path / "out", arguments, {0: slow_tokenizer})
    wait_for(lambda: (tmp_path / "run" / "data").exists(), processes[0])
    start = time.monotonic()
    os.kill(processes[1].pid, number)
    codes = join_all(processes, 20)
    assert time.monotonic() - start < 10
    assert codes == ([1, -9] if number == signal.SIGKILL else [128 + number] * 2)
    assert len(printed(tmp_path / "out", "err")[0]) == 1


def slow_tokenizer() -> None:
    """Makes the training of a tokenizer wait for a minute."""
    from data_pipes import tokenizer as tokenizers

    tokenizers.train = lambda *args, **options: time.sleep(60)


def test_an_error_that_another_process_caused_is_told_as_that_of_the_other(
    alone: Path, tmp_path: Path
) -> None:
    """As a compiler's, in which torch hides that the process was interrupted."""
    arguments = flags(alone, output_dir=tmp_path / "run")
    processes = start_joined(2, tmp_path / "out", arguments, {0: hide_interruption})
    wait_for(lambda: (tmp_path / "run" / "data").exists(), processes[0])
    processes[1].kill()
    assert join_all(processes, 20)[0] == 1
    (line,) = printed(tmp_path / "out", "err")[0]
    assert "process 1 ended without a message" in line


def hide_interruption() -> None:
    """Makes the training of a tokenizer wait, and fail with an error of its own when that is interrupted."""
    from data_pipes import tokenizer as tokenizers

    def train(*args: Any, **options: Any) -> None:
        try:
            time.sleep(60)
        except RuntimeError:
            raise OSError("no C++ compiler") from None

    tokenizers.train = train


def test_a_folder_that_the_other_process_does_not_see_is_named(alone: Path, tmp_path: Path) -> None:
    arguments = flags(alone, output_dir="run")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    setups = {rank: partial(move_to, tmp_path / name) for rank, name in enumerate("ab")}
    assert_refused(tmp_path, arguments, "must be in a folder that all processes share", setups=setups)


def move_to(folder: Path) -> None:
    """Makes another folder the current one, and looks only briefly for files of other processes."""
    from stages.run.data import corpus

    corpus.SECONDS_UNTIL_SEEN = 0.3
    os.chdir(folder)


def expect_three() -> None:
    """Lets a process wait half a second for two others."""
    os.environ.update(INTRO2LLM_JOIN_SECONDS="0.5", WORLD_SIZE="3")


def test_a_process_that_does_not_come_is_named(tmp_path: Path, alone: Path) -> None:
    setups = {0: expect_three}
    processes = start_joined(1, tmp_path / "out", flags(alone, output_dir=tmp_path / "run"), setups)
    assert join_all(processes) == [1]
    ((line,),) = printed(tmp_path / "out", "err")
    assert "process 0 waited too long for process 1 of 3 to join; is it running, and has it the same" in line


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_signal_ends_a_process_that_waits_for_others_to_join(
    rank: int, number: signal.Signals, alone: Path, tmp_path: Path
) -> None:
    setups = {0: partial(wait_alone, rank)}
    processes = start_joined(1, tmp_path / "out", flags(alone, output_dir=tmp_path / "run"), setups)
    wait_for(lambda: printed(tmp_path / "out", "err") not in ([], [[]]), processes[0])
    os.kill(processes[0].pid, number)
    assert join_all(processes, 5) == [128 + number]
    ((waiting, line),) = printed(tmp_path / "out", "err")
    assert waiting.startswith(f"intro2llm: waiting for process {1 - rank} at 127.0.0.1:")
    assert waiting.endswith(", up to 300 s")
    assert "interrupted" in line


def wait_alone(rank: int) -> None:
    """Makes a process one of two, which says soon that it waits."""
    from stages.run import channel

    channel.SECONDS_UNTIL_TOLD = 0.2
    os.environ.update(WORLD_SIZE="2", RANK=str(rank))


def test_two_processes_with_rank_0_are_told_so(alone: Path, tmp_path: Path) -> None:
    setups = dict.fromkeys((0, 1), be_first)
    processes = start_joined(2, tmp_path / "out", flags(alone, output_dir=tmp_path / "run"), setups)
    assert join_all(processes, 20) == [1, 1]
    lines = [line for (line,) in printed(tmp_path / "out", "err")]
    assert sum("is in use: has another process RANK=0 too?" in line for line in lines) == 1, lines


def test_a_port_of_something_else_is_told(alone: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        variables = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": str(server.getsockname()[1])}
        setups = {0: partial(set_variables, variables | {"INTRO2LLM_JOIN_SECONDS": "1"})}
        processes = start_joined(1, tmp_path / "out", flags(alone, output_dir=tmp_path / "run"), setups)
        assert join_all(processes, 20) == [1]
    ((line,),) = printed(tmp_path / "out", "err")
    assert "process 1 of 2 could not join the others at 127.0.0.1" in line
    assert "what listens there is not process 0" in line


def set_variables(variables: dict[str, str]) -> None:
    """Sets environment variables."""
    os.environ.update(variables)


def be_first() -> None:
    """Makes a process the first, and it waits two seconds for the others."""
    os.environ.update(RANK="0", INTRO2LLM_JOIN_SECONDS="2")


def test_flags_that_cannot_work_are_refused_once(alone: Path, tmp_path: Path) -> None:
    own = {"output_dir": tmp_path / "run"}
    assert_refused(
        tmp_path, flags(alone, batch_size=1, **own), "--batch_size 1: 1 row for 2 processes; give at least"
    )
    assert_refused(
        tmp_path,
        flags(alone, gradient_accumulation=4, **own),
        "--batch_size 4 in 4 micro-batches (--gradient_accumulation 4) leaves 1 row for 2 processes",
    )
    assert not (tmp_path / "run").exists()


def test_other_flags_on_one_process_are_refused_by_name(alone: Path, tmp_path: Path) -> None:
    own = {"output_dir": tmp_path / "run"}
    assert_refused(
        tmp_path,
        [flags(alone, **own), flags(alone, seed=1, **own)],
        "process 1 differs from process 0 in flags and code: --seed is 1, not 0; start all processes",
    )
    assert_refused(tmp_path, [flags(alone, **own), ["--lerning", "1"]], "--lerning: unknown flag")
    message = "process 1 runs sft, process 0 pretrain; start all with one command"
    assert_refused(tmp_path, flags(alone, **own), message, subcommand=["pretrain", "sft"])


def test_other_code_on_one_process_is_refused(alone: Path, tmp_path: Path) -> None:
    message = "process 1 differs from process 0 in flags and code: source is sha256:0, not sha256:"
    assert_refused(tmp_path, flags(alone, output_dir=tmp_path / "run"), message, setups={1: change_code})


def change_code() -> None:
    """Gives the code of a process another digest."""
    from stages.run import processes

    original = processes.describe_code
    processes.describe_code = lambda: original() | {"source": "sha256:0"}


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(World(1, 2, 1, 2, "127.0.0.1", 1), {}, SimpleQueue(), {}, Event(), int)
    two = ALONE._replace(rank=1, size=2, first=False, channel=channel)
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes on this machine, and torch sees 1 GPU: each takes one"):
        take_gpu(two, torch.device("cuda"))
    take_gpu(two, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    take_gpu(two, torch.device("cuda"))
    assert taken == [1]


def test_flags_that_need_several_processes_or_one_are_refused(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", *flags(alone, output_dir=tmp_path / "run", shard="state")]) == 2
    assert "--shard state cuts the state over processes, and there is one" in capsys.readouterr().err
    arguments = flags(alone, output_dir=tmp_path / "run", backend="jax")
    assert_refused(tmp_path, arguments, "--backend jax runs in one process")


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_all_is_one_line_also_if_one_process_is_slower(
    rank: int, alone: Path, tmp_path: Path
) -> None:
    arguments = flags(alone, output_dir=tmp_path / "run", backend="jax")
    assert_refused(tmp_path, arguments, "--backend jax runs in one process", setups={rank: explain_slowly})


def explain_slowly() -> None:
    """Lets the other process end while this one handles its own error."""
    from stages.cli import main as module

    original = module.explain

    def explain(*args: Any) -> Any:
        time.sleep(1.0)
        return original(*args)

    module.explain = explain


def test_a_missing_data_file_leaves_no_folder(alone: Path, tmp_path: Path) -> None:
    arguments = flags(alone, output_dir=tmp_path / "runs" / "new", data_path=tmp_path / "missing.txt")
    assert main(["pretrain", *arguments]) == 2
    assert not (tmp_path / "runs").exists()
    assert_refused(tmp_path, arguments, "there is no file or folder")
    assert not (tmp_path / "runs").exists()


def test_a_folder_in_use_is_refused_once(alone: Path, tmp_path: Path) -> None:
    from stages.checkpoint.lock import lock_folder

    with lock_folder(tmp_path / "run"):
        assert_refused(tmp_path, flags(alone, output_dir=tmp_path / "run"), "is in use by another process")


@pytest.mark.parametrize("subcommand", ["replay", "generate", "demo", "chat"])
def test_subcommands_of_one_process_are_refused_by_name(subcommand: str, tmp_path: Path) -> None:
    message = (
        f"intro2llm {subcommand}: it runs in one process, and WORLD_SIZE is 2; start it without torchrun"
    )
    assert_refused(tmp_path, ["--help"], message, subcommand=subcommand)


@pytest.mark.parametrize(
    "names", [["pretrain", "tokenizer"], ["tokenizer", "pretrain"], ["pretrain", "pretrian"]]
)
def test_a_process_that_refuses_its_subcommand_ends_all(
    names: list[str], alone: Path, tmp_path: Path
) -> None:
    arguments = flags(alone, output_dir=tmp_path / "run")
    assert join_all(start_joined(2, tmp_path / "out", arguments, subcommand=names), 30) == [2, 2]
    first, second = printed(tmp_path / "out", "err")
    assert second == []
    if names[0] == "tokenizer":
        assert first == [
            "intro2llm tokenizer: it runs in one process, and WORLD_SIZE is 2; start it without torchrun"
        ]
    else:
        differs = f"process 1 runs {names[1]}, process 0 pretrain; start all with one command"
        assert first == [f"intro2llm pretrain: {differs}"]
    assert not (tmp_path / "run").exists()


def test_a_process_that_refuses_its_subcommand_and_is_alone_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stages.cli.main.SECONDS_TO_REFUSE", 0.2)
    monkeypatch.setattr("stages.cli.main._raise_at_signals", int)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    for name, value in {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(["replay"]) == 2
        assert capsys.readouterr().err.splitlines() == [
            "intro2llm replay: it runs in one process, and WORLD_SIZE is 2; start it without torchrun"
        ]


def test_a_state_in_rows_has_the_numbers_of_one_process_also_after_an_interruption(
    two: Path, tmp_path: Path
) -> None:
    """It goes on layer by layer, and then on one process."""
    arguments = partial(flags, two, output_dir=tmp_path / "run")
    processes = start_joined(2, tmp_path / "out", arguments(shard="state"), {1: partial(stop_at, 5)})
    assert join_all(processes) == [143, 143], printed(tmp_path / "out", "err")
    assert rows(tmp_path / "run")[-1]["step"] == 5
    assert len(list((tmp_path / "run" / "checkpoints" / "step-00000005").glob("*.msgpack"))) == 2
    processes = start_joined(2, tmp_path / "out", arguments(shard="layers"), {0: partial(stop_at, 8)})
    assert join_all(processes) == [143, 143], printed(tmp_path / "out", "err")
    assert (
        "--shard was state, is layers: the run resumes, but not bit for bit"
        in printed(tmp_path / "out", "out")[0]
    )
    assert main(["pretrain", *arguments()]) == 0
    for one, other in zip(rows(two / "run"), rows(tmp_path / "run"), strict=True):
        assert {name: pytest.approx(value, rel=1e-4) for name, value in one.items()} == other


def stop_at(step: int) -> None:
    """Sends SIGTERM to its own process as step `step` begins."""
    from stages.run import loop

    original = loop._step

    def signalled(parts: Any, state: Any, *args: Any) -> Any:
        if int(state.step) == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(parts, state, *args)

    loop._step = signalled
