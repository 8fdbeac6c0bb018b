"""The laws of every pipe: a sequence of batches that is a pure function of the index.

A new pipe is one row in PIPES. Resuming before every element and comparing all the rest is Grain's pattern.
"""

import functools
import itertools
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader

from data_pipes.chat.chat import Encoded
from data_pipes.preference import preference_pipe, unpaired_pipe
from data_pipes.pretrain import pretrain_pipe
from data_pipes.prompts import prompt_pipe
from data_pipes.record_encoding import Answer, Pair
from data_pipes.sft import sft_pipe
from data_pipes.store import write_store
from data_pipes.tokens import TokenStore, memory_store
from data_pipes.windows import windows

Batch = dict[str, torch.Tensor]


def make_documents() -> list[np.ndarray]:
    starts_and_sizes = ((0, 30), (5, 1), (50, 44), (7, 3), (9, 75))
    return [np.arange(start, start + size) % 97 for start, size in starts_and_sizes]


def store_on_disk(folder: Path) -> TokenStore:
    return write_store(folder / "store", make_documents(), vocab_size=97)


def store_in_memory(folder: Path) -> TokenStore:
    return memory_store(make_documents(), vocab_size=97)


def make_pretrain_pipe(make: Callable[[Path], TokenStore], folder: Path, **options: Any) -> Any:
    return pretrain_pipe(make(folder), **{"batch_size": 4, "length": 8, "key": 0, **options})


def make_windows(boundaries: Any, folder: Path) -> Any:
    return windows(store_in_memory(folder), batch_size=4, length=16, stride=5, boundaries=boundaries)


def make_examples(lengths: Sequence[int]) -> list[Encoded]:
    """Tokenized examples of these lengths; the first token of each is its prompt."""
    return [Encoded(np.arange(n) % 7 + 10 * i % 91, np.arange(n) > 0) for i, n in enumerate(lengths)]


LENGTHS = (5, 2, 9, 3, 3, 7, 4, 8, 2, 6, 5)


def make_sft_pipe(folder: Path, **options: Any) -> Any:
    return sft_pipe(make_examples(LENGTHS), **{"batch_size": 2, "length": 10, "key": 0, **options})


def make_preference_pipe(folder: Path, **options: Any) -> Any:
    pairs = [Pair(a, b) for a, b in zip(make_examples(LENGTHS), make_examples(LENGTHS[::-1]), strict=True)]
    return preference_pipe(pairs, **{"batch_size": 3, "length": 6, "key": 0, **options})


def make_unpaired_pipe(folder: Path) -> Any:
    answers = [Answer(example, i % 3 > 0) for i, example in enumerate(make_examples(LENGTHS))]
    return unpaired_pipe(answers, batch_size=4, length=6, key=0, epochs=2)


def make_prompt_pipe(folder: Path, **options: Any) -> Any:
    prompts = [example.tokens for example in make_examples(LENGTHS)]
    return prompt_pipe(prompts, **{"batch_size": 3, "length": 9, "key": 0, **options})


PIPES: dict[str, Callable[[Path], Any]] = {
    "pretrain in memory": functools.partial(make_pretrain_pipe, store_in_memory),
    "pretrain mapped": functools.partial(make_pretrain_pipe, store_on_disk, epochs=2),
    "pretrain masked": functools.partial(make_pretrain_pipe, store_on_disk, boundaries="mask"),
    "pretrain in order": functools.partial(make_pretrain_pipe, store_in_memory, shuffle=False, key=None),
    "windows": functools.partial(make_windows, "ignore"),
    "windows masked": functools.partial(make_windows, "mask"),
    "sft packed": functools.partial(make_sft_pipe, epochs=2),
    "sft not packed": functools.partial(make_sft_pipe, packing=False),
    "preferences": functools.partial(make_preference_pipe, epochs=2),
    "preferences in order": functools.partial(make_preference_pipe, shuffle=False, key=None),
    "unpaired": make_unpaired_pipe,
    "prompts": functools.partial(make_prompt_pipe, epochs=2),
    "a part of a pipe": lambda folder: make_pretrain_pipe(store_in_memory, folder, epochs=2)[1:-2],
}
"""name -> a function from a folder to write in to a pipe of a few batches."""


@pytest.fixture(params=PIPES, name="pipe")
def make_pipe(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return PIPES[request.param](tmp_path)


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def all_equal(a: Sequence[Batch], b: Sequence[Batch]) -> bool:
    return len(a) == len(b) and all(map(equal, a, b))


def test_a_batch_is_a_dictionary_of_tensors_of_one_shape(pipe: Any) -> None:
    batches = list(pipe)
    assert batches
    shapes = {tuple((k, tuple(v.shape), v.dtype) for k, v in sorted(batch.items())) for batch in batches}
    assert len(shapes) == 1


def test_a_batch_is_the_same_in_any_order_of_reading(pipe: Any) -> None:
    forwards = [pipe[i] for i in range(len(pipe))]
    backwards = [pipe[i] for i in reversed(range(len(pipe)))][::-1]
    assert all_equal(forwards, backwards)
    assert all_equal(forwards, list(pipe))


def test_indices_are_those_of_a_list(pipe: Any) -> None:
    batches = list(pipe)
    n = len(pipe)
    for i in range(-n, n):
        assert equal(pipe[i], batches[i])
    for i in (n, -n - 1):
        with pytest.raises(IndexError):
            pipe[i]
    assert equal(pipe[torch.tensor(0)], batches[0])
    assert equal(pipe[np.int64(0)], batches[0])


def test_slices_are_those_of_a_list(pipe: Any) -> None:
    batches = list(pipe)
    ends = (None, 0, 1, 2, -1, 99, -99)
    for start, stop, stride in itertools.product(ends, ends, (None, 2, -1)):
        assert all_equal(list(pipe[start:stop:stride]), batches[start:stop:stride])
    assert all_equal(list(pipe[1:][1:]), batches[2:])


def test_two_pipes_of_the_same_arguments_are_equal(
    pipe: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (tmp_path / "again").mkdir()
    again = PIPES[request.node.callspec.params["pipe"]](tmp_path / "again")
    assert all_equal(list(pipe), list(again))


def test_a_pickled_pipe_is_equal(pipe: Any) -> None:
    assert all_equal(list(pickle.loads(pickle.dumps(pipe))), list(pipe))


def test_a_run_resumed_at_any_step_equals_one_that_was_not_interrupted(pipe: Any) -> None:
    def step(state: tuple[int, int], batch: Batch) -> tuple[int, int]:
        """Count the steps, and hash the batches in their order."""
        steps, digest = state
        total = sum(int(x.sum()) for x in batch.values())
        return steps + 1, (digest * 31 + total) % 2**31

    whole = functools.reduce(step, pipe, (0, 0))
    for stop in range(len(pipe) + 1):
        state = functools.reduce(step, pipe[:stop], (0, 0))
        assert functools.reduce(step, pipe[state[0] :], state) == whole


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_over_any_rest_of_a_pipe_gives_the_rest(pipe: Any, workers: int) -> None:
    """Workers are forked from a small server: forking a process with threads (torch's, JAX's) is unsafe.

    As they start slowly, they get all rests in one data set.
    """
    batches, rests = list(pipe), [pipe[start:] for start in range(len(pipe))]
    if not workers:
        for start, rest in enumerate(rests):
            assert all_equal(list(DataLoader(rest, batch_size=None)), batches[start:])
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.utils.data", "data_pipes.pretrain"])
    loader = DataLoader(
        ConcatDataset(rests), batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    assert all_equal(list(loader), [batch for start in range(len(pipe)) for batch in batches[start:]])


def test_writing_to_a_batch_does_not_change_the_pipe(pipe: Any) -> None:
    before = list(pipe)
    for i in range(len(pipe)):
        for value in pipe[i].values():
            value.fill_(-7)
    assert all_equal(list(pipe), before)


def test_no_two_tensors_of_a_batch_share_memory(pipe: Any) -> None:
    for batch in (pipe[0], pipe[-1]):
        places = [value.untyped_storage().data_ptr() for value in batch.values()]
        assert len(set(places)) == len(places)
        assert all(value.is_contiguous() for value in batch.values())
