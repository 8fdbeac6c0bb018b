"""The engine: a row's tokens do not depend on the load.

It has its parts in `queue`, `machine`, `tile`, `prefill` and `progress`.
"""

from __future__ import annotations

import math
import random as python_random
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from pure.types import Tree
from stages.serve.engine import Engine
from stages.serve.machine import Machine
from stages.serve.queue import BusyError
from stages.serve.row import Piece, Row
from tests.stages.serve.small_engine import (
    LENGTH,
    Pending,
    generated_ids,
    ids_of,
    make_base,
    make_row,
    make_small_machine,
    running_engine,
    sample_rows,
    slowed,
)

BASE = make_base()
EOS = BASE.model.config.eos_token_id


@pytest.fixture(scope="module")
def machine() -> Machine:
    return make_small_machine(BASE)


@pytest.fixture(scope="module")
def engine(machine: Machine) -> Iterator[Engine]:
    with running_engine(machine) as engine:
        yield engine


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "nothing happened for twenty seconds"
        time.sleep(0.001)


def make_rows(count: int) -> list[Row]:
    """Rows of different lengths and settings; some outgrow their tile, some end at a stop token."""
    choose = python_random.Random(count)
    rows = []
    for seed in range(count):
        size = choose.choice([1, 2, 17, 90, 130, 200])
        new = choose.choice([1, 3, 20, 60])
        settings = choose.choice(
            [{}, {"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3, "min_p": 0.1}, {"temperature": 0.3}]
        )
        prompt = [choose.randrange(280) for _ in range(size)]
        rows.append(make_row(seed, prompt, new, stop_ids=frozenset([EOS, 5]), **settings))
    return rows


def test_tokens_are_those_of_the_library_call(engine: Engine) -> None:
    prompt = BASE.tokenizer.encode("def add(left")
    for settings in ({}, {"temperature": 0.7, "top_p": 0.8}, {"temperature": 0.0}):
        (piece,) = sample_rows(engine, make_row(3, prompt, 24, **settings))
        assert ids_of(piece) == generated_ids(BASE, 3, prompt, 24, **settings)
        assert (piece.finish, piece.sampled) == ("length", 24)


def test_a_rows_tokens_are_the_same_alone_and_among_others_in_any_order(engine: Engine) -> None:
    rows = make_rows(24)
    alone = [sample_rows(engine, row)[0] for row in rows]
    order = list(range(len(rows)))
    python_random.Random(1).shuffle(order)
    pending = {i: Pending(engine, [rows[i]]) for i in order}
    gone = [Pending(engine, [make_row(99, [1, 2, 3], 250)]) for _ in range(3)]
    for request in gone:
        engine.release(request.ticket)
    together = {i: request.finish()[0] for i, request in pending.items()}
    assert [together[i] for i in range(len(rows))] == alone
    assert {piece.finish for piece in alone} == {"stop", "length"}


def test_rows_of_one_request_are_those_of_generate_with_that_many_prompts(engine: Engine) -> None:
    from stages.serve.request import row_keys

    rows = [Row((7, 8), key, 6, alternatives=0) for key in row_keys(4, 3)]
    first, second, third = (ids_of(piece) for piece in sample_rows(engine, *rows))
    assert first == generated_ids(BASE, 4, [7, 8], 6)
    assert first != second != third


def test_logprobs_are_the_models_own_at_temperature_1(engine: Engine) -> None:
    prompt = (1, 2, 3)
    (piece,) = sample_rows(engine, make_row(0, prompt, 5, alternatives=4, temperature=0.2, top_p=0.9))
    ids = [*prompt, *ids_of(piece)]
    logprobs = BASE.model.forward(BASE.params, torch.tensor([ids]))[0].log_softmax(-1)
    for place, token in enumerate(piece.tokens, len(prompt) - 1):
        assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=1e-4)
        top = logprobs[place].topk(4)
        assert [id for id, _ in token.top] == top.indices.tolist()
        assert [x for _, x in token.top] == pytest.approx(top.values.tolist(), abs=1e-4)
    (plain,) = sample_rows(engine, make_row(0, prompt, 5, alternatives=None, temperature=0.2, top_p=0.9))
    assert (plain.text, plain.tokens) == (piece.text, ())


def test_a_row_ends_before_its_stop_text_and_frees_its_slot(engine: Engine) -> None:
    prompt = BASE.tokenizer.encode("def add")
    (whole,) = sample_rows(engine, make_row(1, prompt, 40))
    stop = whole.text[10:13]
    (cut,) = sample_rows(engine, make_row(1, prompt, 40, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish == "stop"
    assert cut.sampled < 40
    assert [token.start for token in cut.tokens] == [t.start for t in whole.tokens[: len(cut.tokens)]]


def test_a_released_request_frees_its_slots_and_its_place_in_the_queue(machine: Machine) -> None:
    with running_engine(slowed(machine)) as engine:
        pending = [Pending(engine, [make_row(i, [1], LENGTH - 1)]) for i in range(20)]
        wait_for(lambda: engine.load().active == 12)
        assert engine.load()[1:3] == (8, 20)
        for request in pending:
            engine.release(request.ticket)
        assert engine.load()[1:3] == (0, 0)
        wait_for(lambda: engine.load().active == 0)
        assert engine.load().tokens < LENGTH


def test_a_request_beyond_the_queue_is_refused_and_others_are_not(machine: Machine) -> None:
    with running_engine(machine, most_queued=2) as engine:
        pending = Pending(engine, [make_row(0, [1], 30)] * 14)
        with pytest.raises(BusyError, match=r"14 completions under way and room for 14.*asks for 1;"):
            engine.submit([make_row(0, [1], 2)], lambda index, piece: None)
        assert len(pending.finish()) == 14
        assert sample_rows(engine, make_row(0, [1], 2))[0].finish == "length"


def test_closing_ends_every_request_with_an_error_and_takes_no_more(machine: Machine) -> None:
    with running_engine(slowed(machine)) as engine:
        pending = [Pending(engine, [make_row(0, [1], 250)]) for _ in range(16)]
        engine.close()
        assert all("shutting down" in str(request.finish()[0].error) for request in pending)
        with pytest.raises(BusyError, match="shutting down"):
            engine.submit([make_row(0, [1], 2)], lambda index, piece: None)


def test_nan_and_errors_end_their_rows_and_the_engine_goes_on(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cache: Tree, params: Tree, tokens: torch.Tensor) -> Tree:
        if int(tokens[0, 0]) == 9:
            raise MemoryError("no room")
        return machine.prefill(cache, params, tokens)

    def decode_nan(slots: Tree, params: Tree) -> Tree:
        slots = machine.decode[machine.base, 128](slots, params)
        return slots._replace(logits=torch.where(slots.last[:, None] == 8, math.nan, slots.logits))

    broken = machine._replace(prefill=fail, decode=dict.fromkeys(machine.decode, decode_nan))
    with running_engine(broken) as engine:
        failed = sample_rows(engine, make_row(0, [9, 1], 5))[0]
        not_a_number = sample_rows(engine, make_row(0, [1, 8], 5))[0]
        assert failed.error == "MemoryError: no room"
        assert str(not_a_number.error).startswith("the logits are NaN")
        assert sample_rows(engine, make_row(0, [1, 2], 5))[0].sampled == 5
    assert "MemoryError: no room" in capsys.readouterr().err


def test_an_error_of_a_step_ends_the_rows_of_its_tile(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    def decode(slots: Tree, params: Tree) -> Tree:
        raise ValueError("first\nsecond")

    broken = machine._replace(decode=dict.fromkeys(machine.decode, decode))
    with running_engine(broken) as engine:
        errors = [piece.error for piece in sample_rows(engine, *[make_row(0, [1], 5)] * 3)]
        assert errors == ["ValueError: first second"] * 3
    assert "ValueError: first" in capsys.readouterr().err


def test_a_compiled_engine_gives_the_same_tokens_under_load() -> None:
    machine = make_small_machine(BASE, max_rows=4, compile=True, backend="aot_eager")
    rows = [make_row(i, [1, 2, i], 12) for i in range(9)]
    with running_engine(machine) as engine:
        alone = [ids_of(sample_rows(engine, row)[0]) for row in rows]
        pending = [Pending(engine, [row]) for row in rows]
        assert [ids_of(request.finish()[0]) for request in pending] == alone
    assert alone[0] == generated_ids(BASE, 0, [1, 2, 0], 12)


def test_pieces_join_to_the_row(engine: Engine) -> None:
    request = Pending(engine, [make_row(2, [1, 2], 30)])
    pieces: list[Piece] = []
    while not pieces or pieces[-1].finish is None:
        pieces.append(request.pieces.get(timeout=10)[1])
    (whole,) = sample_rows(engine, make_row(2, [1, 2], 30))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(pieces) > 5
