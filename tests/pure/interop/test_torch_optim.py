"""torch.optim's states here and back, beside real optimizers of torch on real modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pure import optim, tree
from pure.interop import hf
from pure.interop.torch_optim import state_from_torch_optim, state_to_torch_optim
from pure.interop.torch_optim_build import optimizer_from_torch_optim
from pure.interop.torch_optim_read import read_parameters
from pure.types import Tree


class Tied(nn.Module):
    """An embedding that is also the head, two matrices with biases, and a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        return self.head(self.norm(hidden + self.second(self.first(hidden).tanh())))


PATHS = {
    "embedding": "head.weight",  # its second name
    "first/w": "first.weight",
    "first/b": "first.bias",
    "second/w": "second.weight",
    "second/b": "second.bias",
    "norm/g": "norm.weight",
    "norm/b": "norm.bias",
}
SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
}  # fmt: skip
TOKENS = torch.arange(28).reshape(4, 7) % 7


def module(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tied:
    net = Tied()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return net.to(dtype)


def grads_of(net: nn.Module, step: int) -> list[Tensor]:
    """Gradients of a loss that changes with the step."""
    net.zero_grad()
    targets = (TOKENS * 3 + step) % 7
    nn.functional.cross_entropy(net(TOKENS).flatten(0, 1), targets.flatten()).backward()
    return [p.grad for p in net.parameters()]


def params_of(net: nn.Module) -> Tree:
    named = dict(net.named_parameters(remove_duplicate=False))
    params: dict[str, Any] = {"embedding": named["head.weight"]}
    for path, name in PATHS.items():
        first, _, second = path.partition("/")
        if second:
            params.setdefault(first, {})[second] = named[name]
    return tree.map(lambda p: p.detach().clone(), params)


def gradient_tree(net: nn.Module, step: int) -> Tree:
    grads_of(net, step)
    named = dict(net.named_parameters(remove_duplicate=False))
    return tree.map_with_path(lambda path, _: named[PATHS[path]].grad.clone(), params_of(net))


def load(net: nn.Module, params: Tree) -> None:
    named = dict(net.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for path, p in zip(tree.paths(params), tree.leaves(params), strict=True):
            named[PATHS[path]].copy_(p)


def split(net: nn.Module) -> list[dict[str, Any]]:
    """Groups as trainers make them: the vectors do not decay, and the order is no longer the module's."""
    matrices = [p for p in net.parameters() if p.ndim == 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    return [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "lr": 0.02}]


def muon_and_adamw(net: nn.Module, **options: Any) -> list[torch.optim.Optimizer]:
    inner = [net.first.weight, net.second.weight]
    others = [p for p in net.parameters() if not any(p is x for x in inner)]
    return [torch.optim.Muon(inner, lr=0.02, **options), torch.optim.AdamW(others, lr=0.01)]


KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, betas=(0.8, 0.95), foreach=True),
    "AdamW groups": lambda net: torch.optim.AdamW(split(net), lr=0.01, capturable=False),
    "AdamW fused": lambda net: torch.optim.AdamW(net.named_parameters(), lr=torch.tensor(0.01), fused=True),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=0.1, maximize=True),
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.05),
    "SGD nesterov": lambda net: torch.optim.SGD(
        split(net), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "SGD ascent": lambda net: torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.5, maximize=True),
    "Muon": muon_and_adamw,
}


def step_theirs(theirs: Any, net: nn.Module, steps: range) -> None:
    for i in steps:
        grads_of(net, i)
        for one in theirs if isinstance(theirs, list) else [theirs]:
            one.step()


def in_float64(
    x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float, *_: Any
) -> Tensor:
    """torch's Newton-Schulz without its rounding to bfloat16."""
    a, b, c = coefficients
    m = x.double().T if x.shape[0] > x.shape[1] else x.double()
    m = m / (m.norm() + eps)
    for _ in range(steps):
        gram = m @ m.T
        m = a * m + (b * gram + c * gram @ gram) @ m
    return m.T if x.shape[0] > x.shape[1] else m


def in_ours(source: Any, net: nn.Module, ns_dtype: torch.dtype = torch.float64) -> tuple[Any, Tree, Tree]:
    """(optimizer, state, params) of ours from torch's."""
    params = params_of(net)
    ours = optimizer_from_torch_optim(source, params, net, PATHS, ns_dtype=ns_dtype)
    return ours, state_from_torch_optim(source, ours.init(params), net, PATHS), params


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_theirs_resumes_here_and_then_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 steps of torch, 3 of ours from its state, 3 of torch from ours, beside 11 of torch."""
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", in_float64)
    reference, net = module(), module()
    straight, theirs = KINDS[kind](reference), KINDS[kind](net)
    step_theirs(straight, reference, range(11))
    step_theirs(theirs, net, range(5))
    ours, state, params = in_ours(theirs, net)
    first, kept = state, tree.clone(state)
    for i in range(5, 8):
        updates, state = ours.update(gradient_tree(net, i), state, params)
        params = optim.apply_updates(params, updates)
        step_theirs(theirs, net, range(i, i + 1))
        assert_close(params, params_of(net))
        load(net, params)
    assert_same(first, kept)  # torch's steps wrote into its own state only
    fresh, kept = KINDS[kind](net), tree.clone(state)
    states = state_to_torch_optim(state, fresh, net, PATHS)
    for one, saved in [(fresh, states)] if not isinstance(fresh, list) else zip(fresh, states, strict=True):
        one.load_state_dict(saved)
    step_theirs(fresh, net, range(8, 11))
    assert_close(params_of(net), params_of(reference))
    assert_same(state, kept)


def test_muon_is_about_as_close_to_exact_products_as_torch() -> None:
    """Both round products to bfloat16, at different places."""
    w, generator = nn.Parameter(torch.ones(64, 48)), torch.Generator().manual_seed(0)
    theirs = torch.optim.Muon([("w", w)], lr=0.02, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        w.grad = torch.randn(w.shape, generator=generator)
        theirs.step()
    params, grads = {"w": w.detach().clone()}, {"w": torch.randn(w.shape, generator=generator)}
    moved = []
    for dtype in (torch.bfloat16, torch.float64):
        ours = optimizer_from_torch_optim(theirs, params, ns_dtype=dtype)
        state = state_from_torch_optim(theirs, ours.init(params))
        moved.append(ours.update(grads, state, params)[0]["w"])
    w.grad = grads["w"]
    theirs.step()
    rounded, exact = moved
    of_torch = w.detach() - params["w"]
    assert (rounded - exact).norm() < 2 * (of_torch - exact).norm() < 0.1 * exact.norm()


def test_a_llama_of_transformers_resumes_here() -> None:
    """Groups as transformers' Trainer makes them, a tied head, the state read from the state_dict by name."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pure.loss.log_probability import log_probabilities
    from pure.nn.transformer import transformer
    from pure.transform.grad import value_and_grad

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, tie_word_embeddings=True)
    net = LlamaForCausalLM(config)
    named = list(net.named_parameters())
    groups = [
        {"params": [(n, p) for n, p in named if p.ndim > 1], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named if p.ndim == 1], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    tokens = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(1))

    def step() -> Tensor:
        theirs.zero_grad()
        loss = net(input_ids=tokens, labels=tokens).loss
        loss.backward()
        theirs.step()
        return loss.detach()

    for _ in range(4):
        step()
    model = transformer(hf.from_hf_config(config.to_dict()))
    params = tree.clone(hf.from_weights(model.spec, dict(net.state_dict())))
    names = hf.weight_names(params)
    assert "head" not in params
    ours = optimizer_from_torch_optim(theirs.state_dict(), params, names=names)
    state = state_from_torch_optim(theirs.state_dict(), ours.init(params), names=names)
    assert list(state.inner_states) == ["group0", "group1"]

    def loss_of(params: Tree) -> Tensor:
        logits = model.forward(params, tokens[:, :-1])
        return -log_probabilities(logits, tokens[:, 1:]).mean()

    for _ in range(2):
        loss, grads = value_and_grad(loss_of)(params)
        updates, state = ours.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        assert abs(step() - loss) < 1e-6 * loss
    assert_close(params, hf.from_weights(model.spec, dict(net.state_dict())), 2e-6)


def assert_same(one: Tree, other: Tree) -> None:
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(one), tree.leaves(other), strict=True))


def assert_close(ours: Tree, theirs: Tree, tolerance: float = 1e-6) -> None:
    for path, a, b in zip(tree.paths(ours), tree.leaves(ours), tree.leaves(theirs), strict=True):
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())), path


def adamw_on(names: list[str], **options: Any) -> tuple[Tied, torch.optim.Optimizer]:
    net = module()
    named = dict(net.named_parameters())
    return net, torch.optim.AdamW([named[name] for name in names], lr=0.1, **options)


def test_parameters_that_do_not_fit_are_named() -> None:
    net, theirs = adamw_on(["first.weight", "first.bias"])
    step_theirs(theirs, net, range(1))
    template = optim.adamw(0.1).init({"a": {"weight": torch.zeros(6, 4), "bias": torch.zeros(6)}})
    names = {"a/weight": "first.weight", "a/bias": "first.bias"}
    state = state_from_torch_optim(theirs, template, net, names)
    assert torch.equal(state[0].mu["a"]["bias"], theirs.state[net.first.bias]["exp_avg"])
    with pytest.raises(
        ValueError, match=r"no parameter 'a.bias' \(our 'a/bias'\) in torch's optimizer, which has"
    ):
        state_from_torch_optim(theirs, template, net)
    with pytest.raises(
        ValueError, match=r"the shape \[6, 4\] in torch and \[6\] in the template; are the names"
    ):
        state_from_torch_optim(theirs, template, net, dict(zip(names, reversed(names.values()), strict=True)))
    with pytest.raises(
        ValueError, match=r"torch has .* for 'first.bias', and the template keeps no state of it"
    ):
        state_from_torch_optim(
            theirs, optim.adamw(0.1).init({"a": {"weight": torch.zeros(6, 4)}}), net, names
        )
    with pytest.raises(ValueError, match="our params nothing of that name"):
        optimizer_from_torch_optim(theirs, {"a": {"weight": torch.zeros(6, 4)}}, net, names)
    bigger = optim.adamw(0.1).init(
        {"first": {"weight": torch.zeros(6, 4), "b": torch.zeros(6), "c": torch.ones(1)}}
    )
    with pytest.raises(ValueError, match=r"our state has \['first/c'\], and torch's optimizer no parameter"):
        state_to_torch_optim(bigger, theirs, net, {"first/b": "first.bias"})


def test_a_tied_parameter_has_all_its_names() -> None:
    net = module()
    first, *_ = read_parameters(torch.optim.Adam(net.parameters()), net)
    assert (first.name, first.aliases) == ("embed.weight", ("embed.weight", "head.weight"))
    assert (first.kind, first.number, first.group["betas"], first.state) == ("adam", 0, (0.9, 0.999), {})


def test_names_are_by_identity_by_the_groups_or_given() -> None:
    net = module()
    theirs = torch.optim.AdamW(split(net), lr=0.1)
    step_theirs(theirs, net, range(2))
    params = params_of(net)
    template = optim.adamw(0.1).init(params)
    by_identity = state_from_torch_optim(theirs, template, net, PATHS)
    with pytest.raises(
        ValueError, match=r"7 parameters in 2 groups and no names; .*Give the optimizer itself"
    ):
        state_from_torch_optim(theirs.state_dict(), template, net, PATHS)
    name_of = {id(p): name for name, p in net.named_parameters()}
    names = [name_of[id(p)] for group in theirs.param_groups for p in group["params"]]
    paths = {**PATHS, "embedding": "embed.weight"}
    listed = state_from_torch_optim(theirs.state_dict(), template, names, paths)
    assert_same(listed, by_identity)
    with pytest.raises(ValueError, match="6 names for 7 parameters; give one for each"):
        state_from_torch_optim(theirs.state_dict(), template, names[:-1], paths)
    with pytest.raises(ValueError, match=r"\['embed.weight'\] occur twice"):
        state_from_torch_optim(
            theirs.state_dict(), template, ["embed.weight", "embed.weight", *names[2:]], paths
        )
    with pytest.raises(ValueError, match=r"number 0, of shape .*, is not one of the module"):
        state_from_torch_optim(theirs, template, module(), PATHS)
    with pytest.raises(ValueError, match="7 parameters without names; give the module"):
        state_from_torch_optim(theirs, template, names=PATHS)


def test_what_has_no_counterpart_is_refused() -> None:
    net = module()
    params, p = params_of(net), list(net.parameters())
    for theirs, why in (
        (torch.optim.AdamW(p, amsgrad=True), "amsgrad=True keeps max_exp_avg_sq"),
        (torch.optim.SGD(p, momentum=0.9, dampening=0.5), "dampening=0.5 has no counterpart"),
        (torch.optim.RMSprop(p), "expected Adam, AdamW, SGD or Muon of torch.optim, got one with .*'alpha'"),
        (torch.optim.NAdam(p), "expected Adam, AdamW, SGD or Muon"),
        (torch.optim.RAdam(p), "expected Adam, AdamW, SGD or Muon"),
    ):
        with pytest.raises(ValueError, match=why):
            optimizer_from_torch_optim(theirs, params, net, PATHS)
    with pytest.raises(ValueError, match="expected an optimizer or its state_dict"):
        optimizer_from_torch_optim({"model": {}}, params, net, PATHS)
    sharded = torch.optim.AdamW(p).state_dict()
    moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), nn.Parameter(torch.ones(7, 4)))
    sharded["state"] = {0: {"step": torch.tensor(1.0), **moments}}  # DTensor is a subclass, as Parameter is
    with pytest.raises(
        ValueError, match="holds Parameter, expected plain tensors; gather a sharded state first"
    ):
        optimizer_from_torch_optim(sharded, params, net, PATHS)
    old = torch.optim.AdamW(p).state_dict()
    del old["param_groups"][0]["decoupled_weight_decay"]
    with pytest.raises(ValueError, match="does not say if it is decoupled; set decoupled_weight_decay in it"):
        optimizer_from_torch_optim(old, params, net, PATHS)
    theirs = torch.optim.AdamW(p)
    for opt in (optim.ema(0.9), optim.lion(0.1)):
        with pytest.raises(
            ValueError, match="and torch's state nothing to fill it with; expected the state of adam"
        ):
            state_from_torch_optim(theirs, optim.chain(opt, optim.adamw(0.1)).init(params), net, PATHS)
    with pytest.raises(ValueError, match="has our TraceState, and torch's group is of adam"):
        state_to_torch_optim(optim.sgd(0.1, 0.9).init(params), theirs, net, PATHS)
    with pytest.raises(ValueError, match="TraceState, and torch's group is of sgd without momentum"):
        state_to_torch_optim(optim.sgd(0.1, 0.9).init(params), torch.optim.SGD(p, lr=0.1), net, PATHS)
    step_theirs(theirs, net, range(1))
    with pytest.raises(ValueError, match="has a state of adam, and the template's is TraceState"):
        state_from_torch_optim(theirs, optim.sgd(0.1, 0.9).init(params), net, PATHS)


def test_steps_of_torch_are_one_count_here() -> None:
    net = module()
    theirs = torch.optim.AdamW(net.parameters(), lr=0.01)
    params = params_of(net)
    unstepped = state_from_torch_optim(theirs, optim.adamw(0.01).init(params), net, PATHS)
    assert_same(unstepped, optim.adamw(0.01).init(params))
    assert state_to_torch_optim(unstepped, theirs, net, PATHS)["state"] == {}
    step_theirs(theirs, net, range(3))
    scheduled = optim.adamw(optim.linear_schedule(0.1, 0.0, 9)).init(params)
    state = state_from_torch_optim(theirs, scheduled, net, PATHS)
    assert (state[0].count, state[2].count) == (3, 3)
    whole = copy.deepcopy(theirs.state_dict())
    whole["state"][0]["step"] = 3  # as torch before 1.12 kept it
    assert_same(state_from_torch_optim(whole, scheduled, net, PATHS), state)
    net.first.weight.grad = None
    net.first.bias.grad = None
    theirs.step()
    with pytest.raises(ValueError, match=r"here they differ: .* and .*; ours has one count for all"):
        state_from_torch_optim(theirs, optim.adamw(0.01).init(params), net, PATHS)
    sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    step_theirs(sgd, net, range(1))
    scheduled = optim.sgd(optim.linear_schedule(0.1, 0.0, 9), 0.9).init(params)
    with pytest.raises(
        ValueError, match="ScaleByScheduleState counts updates, and torch's state does not say"
    ):
        state_from_torch_optim(sgd, scheduled, net, PATHS)
    assert state_from_torch_optim(sgd, scheduled, net, PATHS, step=1)[1].count == 1


def test_frozen_and_narrow() -> None:
    net = module(dtype=torch.bfloat16)
    net.first.requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    theirs = torch.optim.AdamW(trained, lr=0.01)
    params = params_of(net)
    ours = optimizer_from_torch_optim(theirs, params, net, PATHS)
    for one in trained:
        one.grad = torch.ones_like(one)
    theirs.step()
    state = state_from_torch_optim(theirs.state_dict(), ours.init(params), net, PATHS)
    updates, _ = ours.update(tree.map(torch.ones_like, params), state, params)
    assert not updates["first"]["w"].any()
    assert updates["second"]["w"].all()
    wide = optim.adamw(0.01, mu_dtype=torch.float32).init({"second": params["second"]})
    with pytest.raises(
        ValueError, match=r"our state of 'second.weight' is torch.float32.*like the parameter, torch.bf"
    ):
        state_to_torch_optim(wide, torch.optim.AdamW(net.second.parameters()), net, PATHS)
    single = torch.optim.AdamW([("w", nn.Parameter(torch.ones(2)))])
    single.param_groups[0]["params"][0].grad = torch.ones(2)
    single.step()
    with pytest.raises(ValueError, match=r"is torch.float32 in torch and torch.bfloat16 in the template"):
        state_from_torch_optim(single, optim.adam(0.1, mu_dtype=torch.bfloat16).init({"w": torch.ones(2)}))


def test_a_young_muon_of_ours_is_refused() -> None:
    params = {"w": torch.ones(3, 4)}
    axes = optim.MuonDimensionNumbers()
    opt = optim.chain(optim.scale_by_muon(weight_dimension_numbers=axes), optim.scale_by_learning_rate(0.1))
    _, state = opt.update(params, opt.init(params), params)
    for nesterov in (True, False):
        theirs = torch.optim.Muon([("w", nn.Parameter(torch.ones(3, 4)))], nesterov=nesterov)
        if nesterov:
            with pytest.raises(ValueError, match=r"the next steps differ until 0.95\^count < 1e-7"):
                state_to_torch_optim(state, theirs)
        else:
            assert list(state_to_torch_optim(state, theirs)["state"][0]) == ["momentum_buffer"]
