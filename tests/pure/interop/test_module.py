"""A torch module wrapped as a Model computes the same (`module.py`, `module_parts.py`, `module_trial.py`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from pure import optim, random, tree
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.interop.module import from_module, hugging_face
from pure.transform.grad import grad
from pure.transform.per_sample import per_sample_grad
from pure.types import Model
from stages.dpo import dpo
from stages.grpo import grpo
from stages.population import population
from stages.ppo import ppo
from stages.reward import reward
from stages.sft import sft
from stages.stage import loss_of


class Bigram(nn.Module):
    """The simplest causal model, with a tied head and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(tokens)) * self.scale


class Recurrent(nn.Module):
    """A GRU between two tables; a bound on the logits, if any, follows the output layer."""

    def __init__(self, bound: float | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(61, 6)
        self.gru = nn.GRU(6, 8, batch_first=True)
        self.output = nn.Linear(8, 61)
        self.bound = bound

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.output(self.gru(self.table(tokens))[0])
        return logits if self.bound is None else self.bound * torch.tanh(logits / self.bound)


def recurrent(bound: float | None = None, **options: Any) -> Model:
    torch.manual_seed(0)
    return from_module(Recurrent(bound), vocab_size=61, max_length=32, **options)


def llama(attention: str = "sdpa") -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        attn_implementation=attention,
    )
    return transformers.LlamaForCausalLM(config)


def tokens(rows: int = 2, length: int = 12) -> torch.Tensor:
    return random.randint(random.key(9), (rows, length), 2, 61).long()


def test_tied_weights_are_one_leaf_and_buffers_are_no_leaves() -> None:
    module = Bigram()
    model = from_module(module, vocab_size=7, max_length=8)
    params = model.init(random.key(0))
    assert tree.paths(params) == ["table/weight"]
    x = tokens() % 7
    torch.testing.assert_close(model.forward(params, x), module(x))
    doubled = tree.map(lambda leaf: 2 * leaf, params)
    torch.testing.assert_close(model.forward(doubled, x), 4 * module(x))


def test_the_model_equals_the_module_in_value_and_gradient_and_does_not_change_it() -> None:
    module = llama()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    model = from_module(module, forward=hugging_face)
    params = model.init(random.key(0))
    expected = module(tokens()).logits
    torch.testing.assert_close(model.forward(params, tokens()), expected, rtol=1e-4, atol=1e-5)
    expected.square().mean().backward()
    grads = torch.func.grad(lambda p: model.forward(p, tokens()).square().mean())(params)
    for name, x in module.named_parameters():
        torch.testing.assert_close(tree.get(grads, name.replace(".", "/")), x.grad, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())


def test_packed_documents_do_not_attend_to_each_other() -> None:
    model = from_module(llama(), forward=hugging_face)
    params = model.init(random.key(0))
    one, two = tokens(1, 5), tokens(1, 7)
    row = torch.cat([one, two], 1)
    segments = torch.tensor([[0] * 5 + [1] * 7])
    positions = torch.tensor([[*range(5), *range(7)]])
    together = model.forward(params, row, positions=positions, segment_ids=segments)
    apart = torch.cat([model.forward(params, one), model.forward(params, two)], 1)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_greedy_generation_equals_transformers() -> None:
    module = llama()
    model = from_module(module, forward=hugging_face)
    params = model.init(random.key(0))
    prompts = [tokens(1, 5)[0].tolist(), tokens(1, 3)[0].tolist()]
    generated = generate(model, params, prompts, Sampling(6, temperature=0.0), key=random.key(0))
    for prompt, row in zip(prompts, generated.tokens, strict=True):
        expected = module.generate(
            torch.tensor([prompt]),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            attention_mask=torch.ones(1, len(prompt)),
        )
        assert row.tolist() == expected[0, len(prompt) :].tolist()


def test_per_sample_gradients_by_vmap_equal_single_ones() -> None:
    model = from_module(llama("eager"), forward=hugging_face)
    params = model.init(random.key(0))

    def loss(p: Any, row: torch.Tensor) -> torch.Tensor:
        return model.forward(p, row[None]).square().mean()

    batched = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, tokens(3))
    single = torch.func.grad(loss)(params, tokens(3)[1])
    for x, y in zip(tree.leaves(batched), tree.leaves(single), strict=True):
        torch.testing.assert_close(x[1], y, rtol=1e-3, atol=1e-5)


class Unusual(nn.Module):
    """Layers that hooks for per-sample gradients refuse: a parameter of its own, as in ConvNeXt, a norm that
    is applied twice, a reparametrised weight, and a table that is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(61, 6)
        self.norm = nn.LayerNorm(6)
        self.mix = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.scale = nn.Parameter(torch.full((6,), 0.5))
        self.head = nn.Linear(6, 61, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = self.table(tokens)
        states = states + self.scale * self.mix(self.norm(states)).tanh()
        return self.head(self.norm(states.cumsum(1)))


def test_layers_that_hooks_refuse_have_per_sample_gradients() -> None:
    torch.manual_seed(0)
    model = from_module(Unusual(), vocab_size=61, max_length=16, head="head")
    params, key = model.init(random.key(0)), random.key(0)
    loss = loss_of(sft(model, optim.sgd(0.1)))
    batch = {"tokens": tokens(3), "labels": tokens(3).roll(1, 1)}
    found = per_sample_grad(loss)(params, batch, key)
    assert len(tree.leaves(found)) == 7  # table and head are one leaf
    one = {name: x[1:2] for name, x in batch.items()} | {"batch_position": torch.tensor([1])}
    expected = grad(lambda p: loss(p, one, key)[0])(params)
    for x, y in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        assert y.abs().max() > 0
        torch.testing.assert_close(x[1], y, rtol=1e-4, atol=1e-5)


def test_sft_dpo_and_grpo_train_every_weight() -> None:
    model = from_module(llama(), forward=hugging_face)
    params = model.init(random.key(0))
    rows, labels, positions = tokens(4), tokens(4), torch.arange(4)
    sft_batch = {"tokens": rows, "labels": labels, "batch_position": positions}
    pairs = {
        "chosen_tokens": rows,
        "chosen_labels": labels,
        "rejected_tokens": rows,
        "rejected_labels": rows.flip(1),
        "batch_position": positions,
    }
    prompts = {"prompts": rows[:2, :5], "lengths": torch.full((2,), 5), "row": torch.arange(2)}

    def score(rollouts: Any) -> torch.Tensor:
        return (rollouts.tokens % 2 == 0).float().mean(-1)[:, None]

    optimizer = optim.adamw(1e-2)
    for stage, batch, falling_metric in (
        (sft(model, optimizer), sft_batch, "loss"),
        (dpo(model, optimizer, reference=params), pairs, "loss"),
        (grpo(model, optimizer, score=score, samples=4, sampling=Sampling(5), beta=0.0), prompts, None),
    ):
        state = stage.init(random.key(1), params)
        first = state = stage.step(state, batch)
        for _ in range(3):
            state = stage.step(state, batch)
        changed = [
            not torch.equal(x, y) for x, y in zip(tree.leaves(state.params), tree.leaves(params), strict=True)
        ]
        assert all(changed)
        if falling_metric:
            assert state.metrics[falling_metric] < first.metrics[falling_metric]


def test_the_output_layer_of_a_transformers_model_is_found() -> None:
    """Hidden states are its input; losses that take the logits in parts give the same gradients."""
    module = llama()
    model = from_module(module, forward=hugging_face)
    params, key = model.init(random.key(0)), random.key(0)
    states = model.hidden(params, tokens())
    assert model.config.hidden_size == states.shape[-1] == 24
    torch.testing.assert_close(states, module.model(tokens()).last_hidden_state)
    torch.testing.assert_close(model.logits(params, states), module(tokens()).logits)
    batch = {"tokens": tokens(), "labels": tokens(), "batch_position": torch.arange(2)}
    whole, parts = (
        grad(lambda p, c=chunk: loss_of(sft(model, optim.sgd(0.1), chunk=c))(p, batch, key)[0])(params)
        for chunk in (None, 5)
    )
    for x, y in zip(tree.leaves(whole), tree.leaves(parts), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("head", "width"), [(None, 61), ("output", 8)])
def test_a_recurrent_module_is_trained_by_every_online_stage(head: str | None, width: int) -> None:
    """Its state never sees the padding of shorter prompts: sampler and trainer agree."""
    model = recurrent(head=head)
    assert model.config.hidden_size == width
    prompts = {"prompts": tokens(2, 6), "lengths": torch.tensor([6, 2]), "row": torch.arange(2)}

    def score(rollouts: Any) -> torch.Tensor:
        return (rollouts.tokens % 2 == 0).float().mean(-1)[:, None]

    options = {"score": score, "sampling": Sampling(4), "samples": 3}
    for made in (
        grpo(model, optim.adam(1e-2), **options),
        ppo(model, optim.adam(1e-2), epochs=1, **options),
    ):
        state = made.step(made.init(random.key(1)), prompts)
        assert state.metrics["nonfinite_leaf"] == -1
        assert state.metrics["sampling/sampling_logp_difference/mean"] < 1e-6
    scored = reward(model, optim.adam(1e-2))
    names = ("chosen_tokens", "chosen_labels", "rejected_tokens", "rejected_labels")
    state = scored.init(random.key(1))
    assert tree.get(state.params, "score").shape == (1, width)
    losses = []
    for _ in range(3):
        state = scored.step(state, {name: tokens().roll(i, 1) for i, name in enumerate(names)})
        losses.append(float(state.metrics["loss"]))
    assert losses == sorted(losses, reverse=True)


def test_members_of_a_population_start_apart_only_with_build() -> None:
    def build(key: torch.Tensor) -> nn.Module:
        torch.manual_seed(int(key[1]))
        return Recurrent()

    alike = population(sft(recurrent(), optim.sgd(0.1)), 2)
    with pytest.raises(
        ValueError, match=r"all members start with equal params: .* give from_module a `build`"
    ):
        alike.init(random.key(0))
    given = recurrent().init(None)
    assert alike.init(random.key(0), tree.stack([given, given])).step.shape == (2,)
    made = population(sft(recurrent(build=build), optim.sgd(0.1)), 2)
    first, second = tree.unstack(made.init(random.key(0)))
    again = tree.unstack(made.init(random.key(0)))[1]
    name = "gru/weight_hh_l0"
    assert not torch.equal(tree.get(first.params, name), tree.get(second.params, name))
    assert torch.equal(tree.get(again.params, name), tree.get(second.params, name))
    other = recurrent(build=lambda key: Bigram())
    with pytest.raises(ValueError, match=r"build must return .* parameters of the first one; gru/bias_hh_l0"):
        other.init(random.key(0))


class Bidirectional(nn.Module):
    """Every position sees the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = self.table(tokens)
        return states + states.mean(1, keepdim=True)


def test_modules_that_are_no_causal_language_model_are_refused() -> None:
    with pytest.raises(ValueError, match="Bidirectional is not causal: the logits before the last token"):
        from_module(Bidirectional(), vocab_size=7, max_length=8)
    with pytest.raises(
        ValueError, match=r"for tokens \[2, 8\] Bigram must return logits \[2, 8, 6\], .* 8, 7\]"
    ):
        from_module(Bigram(), vocab_size=6, max_length=8)
    with pytest.raises(
        ValueError, match="Recurrent has no submodule 'lm_head'; its linear layers are output"
    ):
        recurrent(head="lm_head")
    with pytest.raises(ValueError, match="logits are not the result of the output layer `head`: something"):
        recurrent(bound=30.0, head="output")
    for length in (1, 2, 7):
        assert from_module(Bigram(), vocab_size=7, max_length=length).config.max_position_embeddings == length
    with pytest.raises(ValueError, match=r"Recurrent fails on tokens \[2, 8\] as `forward` calls it"):
        recurrent(forward=hugging_face)


def test_a_forward_that_ignores_segments_is_refused() -> None:
    """So are recurrent models of transformers that take a mask and drop it."""

    def ignoring(call: Any, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
        return call(tokens)

    def refusing(call: Any, tokens: torch.Tensor, *, segment_ids: Any, **options: Any) -> torch.Tensor:
        if segment_ids is not None:
            raise ValueError("no packed rows")
        return call(tokens)

    with pytest.raises(ValueError, match="a document of Recurrent changes with the document before it"):
        recurrent(forward=ignoring)
    assert recurrent(forward=refusing).config.hidden_size == 61
    assert from_module(Bigram(), vocab_size=7, max_length=8, forward=ignoring).config.hidden_size == 7


def test_a_module_without_values_is_not_tried() -> None:
    assert from_module(Recurrent().to("meta"), vocab_size=61, max_length=8).config.hidden_size == 61


def test_packed_rows_and_missing_sizes_are_refused() -> None:
    model = from_module(Bigram(), vocab_size=7, max_length=8)
    with pytest.raises(
        ValueError, match=r"from_module: the batch has packed rows .* give from_module a forward"
    ):
        model.forward(model.init(None), tokens() % 7, segment_ids=torch.arange(12).expand(2, 12) // 5)
    with pytest.raises(ValueError, match="vocab_size is None and max_length None, and Bigram has no config"):
        from_module(Bigram())
