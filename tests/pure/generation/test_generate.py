"""`generate` compared with the model's forward pass, for single prompts and batches, eager and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.generation import sample
from pure.generation.generate import Generated, generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import step, stepper
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from pure.types import Model, Tree

KEY = random.key(7)
PROMPTS = [[3], [5, 6, 7, 8, 9], [1, 2], list(range(20)), [11, 11, 11]]
CONFIGS = {
    "GQA": {},
    "MHA": {"num_key_value_heads": 4},
    "MQA": {"num_key_value_heads": 1},
    "sinusoidal": {"use_rope": False},
    "GPT": {
        "use_rms_norm": False,
        "use_swiglu": False,
        "hidden_act": "gelu",
        "attention_bias": True,
        "mlp_bias": True,
    },
    "Qwen3": {"qk_norm": True, "head_dim": 6, "tie_word_embeddings": False},
}


def generate_with(model: Model, params: Tree, prompts: Any, **options: Any) -> Generated:
    """Call `generate`, with fields of Sampling and its other options in one dictionary."""
    sampling = Sampling(**{name: options.pop(name) for name in Sampling._fields if name in options})
    return generate(model, params, prompts, sampling, **options)


def make_model(**changes: object) -> tuple[Model, Tree]:
    """A small model whose logits differ widely, so that greedy and sampled texts are not constant."""
    shape = {
        "vocab_size": 37,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
    }
    model = transformer(ModelConfig(**(shape | changes)))
    return model, model.init(random.key(1))


@pytest.fixture(scope="module")
def small() -> tuple[Model, Tree]:
    return make_model()


@pytest.fixture(scope="module")
def one_layer() -> tuple[Model, Tree]:
    """A model of one layer, which compiles in half the time."""
    return make_model(num_hidden_layers=1)


def forward_logits(model: Model, params: Tree, prompt: list[int], tokens: Tensor) -> Tensor:
    """Return the logits of the forward pass at each position of a completion, [M, V]."""
    text = torch.cat([torch.tensor(prompt), tokens])[None]
    return model.forward(params, text)[0, len(prompt) - 1 : -1]


def assert_generated_close(a: Generated, b: Generated) -> None:
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.lengths, b.lengths)
    torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_takes_the_largest_logit_of_the_forward_pass(name: str) -> None:
    model, params = make_model(**CONFIGS[name])
    found = generate_with(model, params, PROMPTS, key=KEY, max_new_tokens=10, temperature=0.0)
    for prompt, tokens, logprobs in zip(PROMPTS, found.tokens, found.logprobs, strict=True):
        logits = forward_logits(model, params, prompt, tokens)
        assert torch.equal(tokens, logits.argmax(-1))
        torch.testing.assert_close(logprobs, sample.log_probability(logits, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_of_a_ragged_batch_equals_its_prompt_alone(name: str) -> None:
    model, params = make_model(**CONFIGS[name])
    together = generate_with(model, params, PROMPTS, key=KEY, max_new_tokens=12)
    for row, prompt in enumerate(PROMPTS):
        own = random.fold_in(KEY, row)[None]
        single = generate_with(model, params, [prompt], key=own, max_new_tokens=12)
        assert_generated_close(single, tree.map(lambda x, row=row: x[row : row + 1], together))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_log_probabilities_equal_those_of_the_forward_pass(
    small: tuple[Model, Tree], temperature: float
) -> None:
    """Those at the temperature, but without truncation and penalty."""
    found = generate_with(
        *small, PROMPTS, key=KEY, max_new_tokens=12, temperature=temperature, top_k=5, repetition_penalty=1.2
    )
    for prompt, tokens, logprobs in zip(PROMPTS, found.tokens, found.logprobs, strict=True):
        logits = forward_logits(*small, prompt, tokens) / temperature
        torch.testing.assert_close(logprobs, sample.log_probability(logits, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_in_any_batch(small: tuple[Model, Tree], dtype: torch.dtype) -> None:
    model, params = small[0], tree.cast(small[1], dtype)
    keys = torch.stack([random.fold_in(KEY, i) for i in range(8)])
    generate_rows = partial(
        generate_with, model, params, max_new_tokens=20, shape=(8, 20), compact=False, stop_tokens=[4]
    )
    prompts = [*PROMPTS, [9], [8, 7], [6] * 18]
    whole_batch = generate_rows(prompts, key=keys)
    for order in ([3], [1, 0], [7, 6, 5, 4, 3, 2, 1, 0]):
        found = generate_rows([prompts[i] for i in order], key=keys[order])
        assert all(torch.equal(a, b[order]) for a, b in zip(found, whole_batch, strict=True))


def test_the_same_key_gives_the_same_tokens_and_another_key_others(small: tuple[Model, Tree]) -> None:
    run = partial(generate_with, *small, PROMPTS, max_new_tokens=12)
    first, again, other = run(key=KEY), run(key=KEY), run(key=random.key(8))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.tokens, other.tokens)


def test_a_padded_tensor_of_prompts_equals_a_list(small: tuple[Model, Tree]) -> None:
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS])
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(p) for p in PROMPTS], batch_first=True, padding_value=30
    )
    listed = generate_with(*small, PROMPTS, key=KEY, max_new_tokens=8)
    assert_generated_close(generate_with(*small, padded, lengths=lengths, key=KEY, max_new_tokens=8), listed)
    assert_generated_close(
        generate_with(*small, padded[3:4], key=random.fold_in(KEY, 3)[None], max_new_tokens=8),
        Generated(*(x[3:4] for x in listed)),
    )


def lengths_to_stop(tokens: Tensor, stop_tokens: tuple[int, ...]) -> list[int]:
    """Length of each row up to its first stop token, or of the whole row without one."""
    lengths = []
    for row in tokens.tolist():
        stops = [position for position, token in enumerate(row) if token in stop_tokens]
        lengths.append(stops[0] + 1 if stops else len(row))
    return lengths


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("count", [1, 5, 20])
def test_stop_tokens_end_a_row_and_change_no_other(
    small: tuple[Model, Tree], compact: bool, count: int
) -> None:
    prompts = (PROMPTS * 4)[:count]
    run = partial(generate_with, *small, prompts, key=KEY, max_new_tokens=40)
    whole, cut = run(), run(stop_tokens=[4, 9], pad=36, compact=compact)
    lengths = lengths_to_stop(whole.tokens, (4, 9))
    assert cut.lengths.tolist() == lengths
    for row, length in enumerate(lengths):
        assert torch.equal(cut.tokens[row, :length], whole.tokens[row, :length])
        torch.testing.assert_close(
            cut.logprobs[row, :length], whole.logprobs[row, :length], atol=1e-4, rtol=0
        )
        assert cut.tokens[row, length:].eq(36).all()
        assert cut.logprobs[row, length:].eq(0).all()


def test_a_stop_function_receives_all_rows_in_the_order_of_the_prompts(small: tuple[Model, Tree]) -> None:
    prompts = PROMPTS * 3
    limits = torch.tensor([(7 * row) % 30 + 1 for row in range(15)])
    seen: list[int] = []

    def stop(tokens: Tensor, lengths: Tensor) -> Tensor:
        assert tokens.shape == (15, 30)
        seen.append(int(lengths.max()))
        return lengths >= limits

    found = generate_with(*small, prompts, key=KEY, max_new_tokens=30, stop=stop)
    whole = generate_with(*small, prompts, key=KEY, max_new_tokens=30)
    assert found.lengths.tolist() == limits.tolist()
    assert seen[:8] == list(range(1, 9))
    for row, length in enumerate(limits.tolist()):
        assert torch.equal(found.tokens[row, :length], whole.tokens[row, :length])


def count_decoded_rows(model: Model) -> tuple[Model, list[int]]:
    """Return the model, and a list to which each decoding of one token appends its number of rows."""
    sizes: list[int] = []

    def decode(params: Tree, tokens: Tensor, cache: Tree, **options: bool) -> tuple[Tensor, Tree]:
        sizes.extend([len(tokens)] if tokens.shape[1] == 1 else [])
        return model.decode(params, tokens, cache, **options)

    return model._replace(decode=decode), sizes


def test_finished_rows_are_removed_from_the_batch(small: tuple[Model, Tree]) -> None:
    """The number of rows halves as they finish, and generation ends with the last."""
    model, sizes = count_decoded_rows(small[0])
    limits = torch.tensor([2] * 16 + [10] * 8 + [20] * 7 + [30])
    generate_with(
        model,
        small[1],
        [[1]] * 32,
        key=KEY,
        max_new_tokens=60,
        stop=lambda tokens, lengths: lengths >= limits,
    )
    assert sizes == [32] * 8 + [16] * 8 + [8] * 8 + [4] * 8


def test_without_a_stop_condition_every_step_decodes_all_rows(small: tuple[Model, Tree]) -> None:
    model, sizes = count_decoded_rows(small[0])
    generate_with(model, small[1], [[1]] * 6, key=KEY, max_new_tokens=9)
    assert sizes == [8] * 9  # 6 rows, rounded up


def test_repetition_penalty_counts_prompt_and_completion(small: tuple[Model, Tree]) -> None:
    """Greedy tokens are the argmax of the penalised logits of the forward pass on the text so far."""
    model, params = small
    found = generate_with(
        model, params, [[3, 5]], key=KEY, max_new_tokens=8, temperature=0.0, repetition_penalty=1.7
    )
    text = [3, 5]
    for token in found.tokens[0].tolist():
        logits = model.forward(params, torch.tensor([text]))[0, -1]
        seen = torch.zeros(37, dtype=torch.bool).scatter(0, torch.tensor(text), True)
        assert token == int(sample.repetition_penalty(logits, seen, 1.7).argmax())
        text.append(token)


def test_each_row_has_its_own_temperature_and_top_k(small: tuple[Model, Tree]) -> None:
    temperatures, top_ks = torch.tensor([0.0, 0.5, 1.0, 2.0, 1.0]), torch.tensor([37, 5, 1, 10, 3])
    together = generate_with(
        *small, PROMPTS, key=KEY, max_new_tokens=9, temperature=temperatures, top_k=top_ks
    )
    for row, prompt in enumerate(PROMPTS):
        own = {
            "temperature": temperatures[row].item(),
            "top_k": int(top_ks[row]),
            "key": random.fold_in(KEY, row)[None],
        }
        assert_generated_close(
            generate_with(*small, [prompt], max_new_tokens=9, **own),
            Generated(*(x[row : row + 1] for x in together)),
        )


def test_first_tokens_follow_the_distribution_of_the_forward_pass(small: tuple[Model, Tree]) -> None:
    """Chi-square over 4,000 first tokens; with 36 degrees of freedom, 1 in 1,000 samples exceeds 68."""
    model, params = small
    found = generate_with(model, params, [[2, 4]] * 4000, key=KEY, max_new_tokens=1, temperature=1.5)
    expected = (model.forward(params, torch.tensor([[2, 4]]))[0, -1] / 1.5).softmax(-1) * 4000
    assert expected.min() > 5
    assert ((found.tokens[:, 0].bincount(minlength=37) - expected) ** 2 / expected).sum() < 68


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.8, "top_k": 10, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.1},
        {"stop_tokens": [4], "shape": (8, 20)},
    ],
    ids=["plain", "greedy", "all", "stop"],
)
def test_compiled_generation_equals_eager(one_layer: tuple[Model, Tree], options: dict) -> None:
    compiled = stepper(one_layer[0], backend="aot_eager")
    run = partial(generate_with, *one_layer, PROMPTS, key=KEY, max_new_tokens=12, **options)
    assert_generated_close(run(compile=compiled), run())


@pytest.mark.slow
def test_generation_compiled_with_inductor_equals_eager(one_layer: tuple[Model, Tree]) -> None:
    run = partial(
        generate_with,
        *one_layer,
        PROMPTS[:3],
        key=KEY,
        max_new_tokens=6,
        temperature=0.9,
    )
    assert_generated_close(run(compile=True), run())


def test_params_and_prompts_are_not_changed(one_layer: tuple[Model, Tree]) -> None:
    model, params = one_layer
    before, prompts = tree.clone(params), torch.tensor([[1, 2, 3]])
    generate_with(
        model, params, prompts, key=KEY, max_new_tokens=5, compile=stepper(model, backend="aot_eager")
    )
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(params), tree.leaves(before), strict=True))
    assert prompts.tolist() == [[1, 2, 3]]


def test_no_prompts_give_no_rows(small: tuple[Model, Tree]) -> None:
    assert generate_with(*small, [], key=KEY, max_new_tokens=3).tokens.shape == (0, 3)


def test_prompt_and_completion_may_fill_the_context(small: tuple[Model, Tree]) -> None:
    assert generate_with(*small, [[1] * 63, [1]], key=KEY, max_new_tokens=1).lengths.tolist() == [1, 1]
    assert generate_with(*small, [[1]], key=KEY, max_new_tokens=63).lengths.tolist() == [63]


def test_nan_in_logits_is_reported_with_its_prompt_and_token(small: tuple[Model, Tree]) -> None:
    model, params = small
    broken = {**params, "embedding": params["embedding"].clone()}
    broken["embedding"][5] = math.nan
    with pytest.raises(FloatingPointError, match="logits of prompt 0 were NaN from its new token 0 on"):
        generate_with(model, broken, [[1], [5]], key=KEY, max_new_tokens=3)


REFUSED: dict[str, tuple[Callable, str]] = {
    "empty": (partial(generate_with, prompts=[[1], []]), "prompt 1 is empty"),
    "unknown": (partial(generate_with, prompts=[[1], [2, 37]]), "prompt 1 has the id 37"),
    "long": (partial(generate_with, prompts=[[1], [1] * 60]), "60 prompt tokens and 5 new ones exceed .* 64"),
    "none": (partial(generate_with, prompts=[[1]], max_new_tokens=0), "max_new_tokens must be at least 1"),
    "rank": (partial(generate_with, prompts=torch.tensor([1, 2])), r"must be \[B, P\]"),
    "lengths": (
        partial(generate_with, prompts=torch.ones(2, 3).long(), lengths=torch.tensor([1, 4])),
        "at most P = 3",
    ),
    "twice": (partial(generate_with, prompts=[[1]], lengths=torch.tensor([1])), "lists have their own"),
    "shape": (partial(generate_with, prompts=[[1, 2, 3]], shape=(4, 2)), r"at least .* \(1, 3\)"),
    "top_p": (partial(generate_with, prompts=[[1]], top_p=0.0), r"top_p must be in \(0, 1\]"),
    "cold": (partial(generate_with, prompts=[[1]], temperature=-1.0), "temperature must be at least 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused(small: tuple[Model, Tree], name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        call(model=small[0], params=small[1], **({"key": KEY, "max_new_tokens": 5} | call.keywords))


def test_leaves_that_a_step_donates_share_no_storage(one_layer: tuple[Model, Tree]) -> None:
    """`jit` with donation refuses leaves that share storage at every step; the compiled stepper does not."""
    model, params = one_layer
    checking_step = jit(partial(step, model=model), donate=True, backend="aot_eager")
    limits = torch.tensor([3] * 5 + [12])
    run = partial(
        generate_with,
        model,
        params,
        [[1], [2, 3]] * 3,
        key=KEY,
        max_new_tokens=20,
        repetition_penalty=1.1,
        stop_tokens=[4],
        stop=lambda tokens, lengths: lengths >= limits,
    )
    plain = stepper(model, compile=False)
    assert_generated_close(run(compile=plain._replace(bind=lambda *arguments: checking_step)), run())
