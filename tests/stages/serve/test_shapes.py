"""`stages.serve.shapes`: a shape is used only if it gives the base's bits in every slot."""

from __future__ import annotations

import pytest
import torch

from pure.types import Tree
from stages.serve import shapes
from stages.serve.machine import Machine, make_machine
from tests.stages.serve.small_engine import (
    Pending,
    ids_of,
    make_base,
    make_row,
    make_small_machine,
    running_engine,
    sample_rows,
)

BASE = make_base()


def differing_at(*rows: int) -> Machine:
    """A machine whose tiles of these numbers of slots give other logits."""
    machine = make_small_machine(BASE, max_rows=20)

    def decode(slots: Tree, params: Tree) -> Tree:
        after = machine.decode[machine.base, 128](slots, params)
        return after._replace(logits=-after.logits if len(slots.last) in rows else after.logits)

    machine.trials.agreeing.clear()
    return machine._replace(decode=dict.fromkeys(machine.decode, decode))


def test_shapes_that_round_differently_are_left_out_at_every_length() -> None:
    machine = differing_at(1, 16)
    for length in machine.lengths:
        found = [shapes.fitting_shape(machine, length, count) for count in (1, 4, 5, 8, 9, 16, 17)]
        four = 4 if shapes.agrees(machine, length, 4) else 8
        twenty = 20 if shapes.agrees(machine, length, 20) else None
        assert found == [four, four, 8, 8, twenty, twenty, twenty]
    assert not shapes.agrees(machine, 128, 1)
    assert not shapes.agrees(machine, 128, 16)


@pytest.mark.parametrize("rows", [(1, 4), (16, 20)])
def test_tokens_are_the_same_under_load_whatever_shapes_differ(rows: tuple[int, ...]) -> None:
    jobs = [make_row(i, [1, 2, i], 9 + i % 7) for i in range(24)]
    with running_engine(make_small_machine(BASE, max_rows=20)) as engine:
        expected = [ids_of(sample_rows(engine, job)[0]) for job in jobs]
    with running_engine(differing_at(*rows)) as engine:
        pending = [Pending(engine, [job]) for job in jobs]
        assert [ids_of(request.finish()[0]) for request in pending] == expected


def test_slots_that_round_differently_are_noticed() -> None:
    machine = make_small_machine(BASE)
    whole = machine.decode[machine.base, 128]

    def decode(slots: Tree, params: Tree) -> Tree:
        after = whole(slots, params)
        return after._replace(logits=after.logits + 1e-3 * torch.arange(len(slots.last))[:, None])

    machine.trials.agreeing.clear()
    machine.trials.logits.clear()
    said: list[str] = []
    machine = machine._replace(decode=dict.fromkeys(machine.decode, decode))
    assert not shapes.try_shapes(machine, all_of_them=True, say=said.append)
    assert said == [f"first steps with {length} positions" for length in machine.lengths]


@pytest.mark.parametrize("differs", [False, True])
def test_prompts_are_prefilled_together_only_if_that_gives_the_same_bits(differs: bool) -> None:
    machine = make_small_machine(BASE)
    counts: list[int] = []

    def prefill(cache: Tree, params: Tree, tokens: torch.Tensor) -> Tree:
        counts.append(len(tokens))
        tokens = tokens + 1 if differs and len(tokens) > 1 else tokens
        return machine.prefill(cache, params, tokens)

    jobs = [make_row(i, [1, 2, i + 3] * (1 + i % 3), 6) for i in range(12)]
    with running_engine(machine) as engine:
        expected = [ids_of(sample_rows(engine, job)[0]) for job in jobs]
    machine.trials.groups.clear()
    watched = machine._replace(prefill=prefill)
    found = [shapes.fitting_group(watched, 128, 16, count) for count in (1, 2, 3, 8)]
    assert found == ([1, 1, 1, 1] if differs else [1, 2, 4, 8])
    counts.clear()
    with running_engine(watched) as engine:
        assert [ids_of(piece) for piece in sample_rows(engine, *jobs)] == expected
    assert (max(counts) > 1) is not differs


@pytest.mark.parametrize("length", [2, 8, 40])
def test_a_machine_with_fewer_positions_than_a_chunk_works(length: int) -> None:
    machine = make_machine(BASE, max_rows=4, max_length=length)
    assert shapes.try_shapes(machine, all_of_them=True, say=lambda line: None)
    rows = [make_row(i, [1, 2, 3, 4][: length - 1], 1) for i in range(3)]
    with running_engine(machine) as engine:
        assert [len(ids_of(piece)) for piece in sample_rows(engine, *rows)] == [1, 1, 1]
