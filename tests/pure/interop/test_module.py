"""`pure.interop.module`: a torch module wrapped as a Model computes the same; its weights never change."""

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
from stages.dpo import dpo
from stages.grpo import grpo
from stages.sft import sft


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


def test_segment_ids_and_missing_sizes_are_refused() -> None:
    model = from_module(Bigram(), vocab_size=7, max_length=8)
    with pytest.raises(ValueError, match="module\\(tokens\\) takes neither; give from_module a forward"):
        model.forward(model.init(None), tokens() % 7, segment_ids=torch.zeros(2, 12, dtype=torch.int64))
    with pytest.raises(ValueError, match="vocab_size is None and max_length None, and Bigram has no config"):
        from_module(Bigram())
