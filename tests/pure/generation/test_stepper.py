"""One step of generation, by itself."""

from __future__ import annotations

from functools import partial

import torch

from pure import random, tree
from pure.config import ModelConfig
from pure.generation.controls import make_controls
from pure.generation.sampling import Sampling
from pure.generation.stepper import Generated, Progress, step, stepper
from pure.nn.transformer import transformer
from pure.types import Model, Tree

NONE = torch.zeros(0, dtype=torch.int64)


def start(done: list[bool]) -> tuple[Model, Tree, Progress]:
    config = ModelConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
    )
    model, rows = transformer(config), len(done)
    written = Generated(torch.full((rows, 4), 19), torch.zeros(rows, 4), torch.zeros(rows, dtype=torch.int64))
    first = torch.arange(rows)
    progress = Progress(
        model.cache(rows, 6), first, written, torch.tensor(done), torch.zeros((), dtype=torch.int64), None
    )
    return model, model.init(random.key(0)), progress


def test_a_step_writes_one_token_in_each_unfinished_row() -> None:
    model, params, progress = start([False, True, False])
    steered = make_controls(random.key(1), 3, Sampling(4, temperature=1.0), rows=3)
    move = stepper(model, compile=False).bind(progress, params, steered, NONE)
    for taken in range(1, 4):
        progress = move(progress, params, steered, NONE)
        assert progress.written.lengths.tolist() == [taken, 0, taken]
        assert progress.written.tokens[:, taken:].eq(19).all()
        assert progress.written.logprobs[0, :taken].lt(0).all()
        assert progress.written.tokens[1].eq(19).all()
        assert int(progress.step_count) == taken
        assert progress.cache.length.tolist() == [taken] * 3


def test_a_stop_token_is_written_and_ends_its_row() -> None:
    model, params, progress = start([False, False])
    steered = make_controls(random.key(1), 2, Sampling(4, temperature=1.0), rows=2)
    move = stepper(model, compile=False).bind(progress, params, steered, NONE)
    first = move(progress, params, steered, NONE).written.tokens[0, 0]
    after = move(progress, params, steered, first[None])
    assert after.done[0]
    assert after.written.tokens[0, 0] == first
    assert after.written.lengths[0] == 1


def test_a_step_changes_none_of_its_arguments() -> None:
    model, params, progress = start([False, False])
    steered = make_controls(random.key(1), 2, Sampling(4, temperature=1.0, repetition_penalty=2.0), rows=2)
    progress = progress._replace(seen=torch.zeros(2, 20, dtype=torch.bool))
    arguments = (progress, params, steered)
    before = tree.clone(arguments)
    stepper(model, compile=False).bind(*arguments, NONE)(*arguments, NONE)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(arguments), tree.leaves(before), strict=True))


def test_a_compiled_step_writes_into_the_storage_of_the_last() -> None:
    model, params, progress = start([False, False])
    steered = make_controls(random.key(1), 2, Sampling(4, temperature=1.0), rows=2)
    plain = partial(step, model=model)(progress, params, steered, NONE)
    places = [x.data_ptr() for x in tree.leaves(progress)]
    bound = stepper(model, backend="aot_eager").bind(progress, params, steered, NONE)
    compiled = bound(progress, params, steered, NONE)
    assert [x.data_ptr() for x in tree.leaves(compiled)] == places
    for a, b in zip(tree.leaves(compiled), tree.leaves(plain), strict=True):
        torch.testing.assert_close(a, b)


def test_steps_are_compiled_once_for_each_shape() -> None:
    model, params, progress = start([False, False])
    steered = make_controls(random.key(1), 2, Sampling(4, temperature=1.0), rows=2)
    bind = stepper(model, backend="aot_eager").bind
    first = bind(progress, params, steered, NONE)
    colder = make_controls(random.key(2), 2, Sampling(4, temperature=0.5), rows=2)
    assert bind(tree.clone(progress), tree.clone(params), colder, NONE) is first
    fewer = make_controls(random.key(1), 2, Sampling(4, temperature=1.0, top_k=3), rows=2)
    _, _, wider = start([False, False, False])
    others = [
        bind(progress, params, fewer, NONE),
        bind(progress, params, steered, NONE.new_ones(1)),
        bind(wider, params, steered, NONE),
        bind(progress, tree.cast(params, torch.bfloat16), steered, NONE),
    ]
    assert len({first, *others}) == 5
    for step_, c in ((first, steered), (others[0], fewer), (first, colder)):
        expected = step(tree.clone(progress), params, c, NONE, model=model)
        found = step_(tree.clone(progress), params, c, NONE)
        assert torch.equal(found.written.tokens, expected.written.tokens)
