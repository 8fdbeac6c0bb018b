"""`pure.generation.stepper`: one decoding step, called without `generate`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.generation.controls import make_controls
from pure.generation.sampling import Sampling
from pure.generation.stepper import Generated, Progress, step, stepper
from pure.nn.transformer import transformer
from pure.types import Model, Tree

NO_STOP_TOKENS = torch.zeros(0, dtype=torch.int64)
PAD = 19


def start_generation(done: list[bool]) -> tuple[Model, Tree, Progress]:
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
    progress = Progress(
        cache=model.cache(rows, 6),
        last=torch.arange(rows),
        written=Generated(
            tokens=torch.full((rows, 4), PAD),
            logprobs=torch.zeros(rows, 4),
            lengths=torch.zeros(rows, dtype=torch.int64),
        ),
        done=torch.tensor(done),
        step_count=torch.zeros((), dtype=torch.int64),
        seen=None,
    )
    return model, model.init(random.key(0)), progress


def test_a_step_writes_one_token_in_each_unfinished_row() -> None:
    model, params, progress = start_generation([False, True, False])
    controls = make_controls(random.key(1), 3, Sampling(4, temperature=1.0), rows=3)
    run_step = stepper(model, compile=False).bind(progress, params, controls, NO_STOP_TOKENS)
    for count in range(1, 4):
        progress = run_step(progress, params, controls, NO_STOP_TOKENS)
        assert progress.written.lengths.tolist() == [count, 0, count]
        assert progress.written.tokens[:, count:].eq(PAD).all()
        assert progress.written.logprobs[0, :count].lt(0).all()
        assert progress.written.tokens[1].eq(PAD).all()
        assert int(progress.step_count) == count
        assert progress.cache.length.tolist() == [count] * 3


def test_the_count_of_steps_is_not_read_on_the_host() -> None:
    model, params, progress = start_generation([False])
    controls = make_controls(random.key(1), 1, Sampling(4, temperature=1.0), rows=1)

    def write(count: Tensor) -> Tensor:
        state = progress._replace(step_count=count)
        return step(state, params, controls, NO_STOP_TOKENS, model=model).written.tokens

    counts = torch.arange(3)
    assert torch.equal(torch.func.vmap(write)(counts), torch.stack([write(count) for count in counts]))


def test_a_stop_token_is_written_and_ends_its_row() -> None:
    model, params, progress = start_generation([False, False])
    controls = make_controls(random.key(1), 2, Sampling(4, temperature=1.0), rows=2)
    run_step = stepper(model, compile=False).bind(progress, params, controls, NO_STOP_TOKENS)
    first = run_step(progress, params, controls, NO_STOP_TOKENS).written.tokens[0, 0]
    after = run_step(progress, params, controls, first[None])
    assert after.done[0]
    assert after.written.tokens[0, 0] == first
    assert after.written.lengths[0] == 1


def test_a_step_changes_none_of_its_arguments() -> None:
    model, params, progress = start_generation([False, False])
    controls = make_controls(random.key(1), 2, Sampling(4, temperature=1.0, repetition_penalty=2.0), rows=2)
    progress = progress._replace(seen=torch.zeros(2, 20, dtype=torch.bool))
    arguments = (progress, params, controls)
    before = tree.clone(arguments)
    stepper(model, compile=False).bind(*arguments, NO_STOP_TOKENS)(*arguments, NO_STOP_TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(arguments), tree.leaves(before), strict=True))


def test_a_compiled_step_writes_into_the_storage_of_its_argument() -> None:
    model, params, progress = start_generation([False, False])
    controls = make_controls(random.key(1), 2, Sampling(4, temperature=1.0), rows=2)
    plain = partial(step, model=model)(progress, params, controls, NO_STOP_TOKENS)
    pointers = [x.data_ptr() for x in tree.leaves(progress)]
    bound = stepper(model, backend="aot_eager").bind(progress, params, controls, NO_STOP_TOKENS)
    compiled = bound(progress, params, controls, NO_STOP_TOKENS)
    assert [x.data_ptr() for x in tree.leaves(compiled)] == pointers
    for a, b in zip(tree.leaves(compiled), tree.leaves(plain), strict=True):
        torch.testing.assert_close(a, b)


def test_bind_compiles_once_for_each_shape_and_dtype() -> None:
    model, params, progress = start_generation([False, False])
    controls = make_controls(random.key(1), 2, Sampling(4, temperature=1.0), rows=2)
    bind = stepper(model, backend="aot_eager").bind
    first = bind(progress, params, controls, NO_STOP_TOKENS)
    low_temperature = make_controls(random.key(2), 2, Sampling(4, temperature=0.5), rows=2)
    assert bind(tree.clone(progress), tree.clone(params), low_temperature, NO_STOP_TOKENS) is first
    with_top_k = make_controls(random.key(1), 2, Sampling(4, temperature=1.0, top_k=3), rows=2)
    _, _, three_rows = start_generation([False, False, False])
    others = [
        bind(progress, params, with_top_k, NO_STOP_TOKENS),
        bind(progress, params, controls, NO_STOP_TOKENS.new_ones(1)),
        bind(three_rows, params, controls, NO_STOP_TOKENS),
        bind(progress, tree.cast(params, torch.bfloat16), controls, NO_STOP_TOKENS),
    ]
    assert len({first, *others}) == 5
    for run_step, case in ((first, controls), (others[0], with_top_k), (first, low_temperature)):
        expected = step(tree.clone(progress), params, case, NO_STOP_TOKENS, model=model)
        actual = run_step(tree.clone(progress), params, case, NO_STOP_TOKENS)
        assert torch.equal(actual.written.tokens, expected.written.tokens)
