"""`masked`, `path_mask` and `decay_mask`, which select the leaves that a transformation sees."""

from __future__ import annotations

import inspect

import flax.serialization
import jax.numpy as jnp
import optax
import pytest
import torch

from pure import optim, tree
from pure.config import preset
from pure.nn.transformer import transformer

PARAMS = {
    "embedding": torch.ones(2),
    "layers": [{"norm": torch.ones(2), "q": torch.ones(2)} for _ in range(11)],
}


def test_decay_mask_selects_the_matrices_of_a_transformer() -> None:
    """Only matrices of the layers and the head are decayed; norms, biases and the embedding are not."""
    spec = transformer(preset("tiny_config")).spec
    flags = dict(zip(tree.paths(spec), tree.leaves(optim.decay_mask(spec)), strict=True))
    decayed_ranks = {len(x.shape) for x, flag in zip(tree.leaves(spec), flags.values(), strict=True) if flag}
    assert decayed_ranks == {2}
    not_decayed = {path for path, flag in flags.items() if not flag}
    assert all(any(word in path for word in ("norm", "bias", "embed")) for path in not_decayed)
    assert "embedding" in not_decayed
    assert any("layers/0/attention" in path for path in set(flags) - not_decayed)


def test_path_mask_matches_whole_names_between_slashes() -> None:
    flags = optim.path_mask("/layers/1/", "/embedding/")(PARAMS)
    assert [i for i, layer in enumerate(flags["layers"]) if layer["q"]] == [1]
    assert flags["embedding"] is True
    all_but_norms = optim.path_mask(exclude=("norm",))(PARAMS)
    assert all_but_norms["layers"][3] == {"norm": False, "q": True}


def test_masked_out_leaves_have_no_state_and_their_updates_pass_unchanged() -> None:
    opt = optim.masked(optim.adam(0.1), optim.path_mask("/q/"))
    state = opt.init(PARAMS)
    mu = state.inner_state[0].mu
    assert mu["embedding"] == mu["layers"][0]["norm"] == optim.MaskedNode()
    updates, new_state = opt.update(PARAMS, state)
    assert updates["embedding"] is PARAMS["embedding"]
    torch.testing.assert_close(updates["layers"][0]["q"], torch.tensor([-0.1, -0.1]))
    assert new_state.inner_state[0].mu["embedding"] == optim.MaskedNode()


def test_nested_masks_give_the_state_structure_of_optax() -> None:
    params = {"a": [1.0, 2.0], "b": {"c": 3.0, "d": 4.0}}
    outer, inner = {"a": False, "b": True}, {"a": True, "b": {"c": True, "d": False}}
    optax_inner = {"a": False, "b": inner["b"]}
    ours = optim.masked(optim.masked(optim.adam(0.1), inner), outer)
    theirs = optax.masked(optax.masked(optax.adam(0.1), optax_inner), outer)
    tensors = tree.map(torch.tensor, params)
    jax_params = tree.map(jnp.asarray, params)
    _, state = ours.update(tensors, ours.init(tensors), tensors)
    _, peer_state = theirs.update(jax_params, theirs.init(jax_params), jax_params)
    mine, peers = (
        flax.serialization.to_state_dict(s)["inner_state"]["inner_state"]["0"] for s in (state, peer_state)
    )
    assert list(mine) == list(peers)
    assert mine["mu"]["b"]["c"].item() == pytest.approx(peers["mu"]["b"]["c"].item())
    assert mine["mu"]["b"]["d"] == peers["mu"]["b"]["d"] == {}


def test_masks_may_contain_namedtuples_and_tuples() -> None:
    node = optim.EmaState(count=torch.tensor(1.0), ema=(torch.tensor(2.0), torch.tensor(3.0)))
    flags = optim.EmaState(count=False, ema=(True, False))
    updates, _ = optim.masked(optim.scale(10.0), flags).update(node, optim.MaskedState(optim.EmptyState()))
    assert updates == optim.EmaState(torch.tensor(1.0), (torch.tensor(20.0), torch.tensor(3.0)))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            {"embedding": True},
            ValueError,
            "does not fit the tree at the root: the mask has embedding, the tree embedding",
        ),
        (
            {"embedding": True, "layer": True},
            ValueError,
            "the mask has embedding, layer, the tree embedding, layers",
        ),
        (
            {"embedding": True, "layers": [True]},
            ValueError,
            "at layers: the mask has 0, the tree 0, 1, 10, 2",
        ),
        ({"embedding": 1, "layers": True}, TypeError, "the mask must hold bools, got 1 at embedding"),
        ({"embedding": True, "layers": "all"}, TypeError, "the mask must hold bools, got 'all' at layers"),
        (
            optim.path_mask("/attention/"),
            ValueError,
            "'/attention/' occurs in no path; the paths are /embedding/",
        ),
        (optim.path_mask(exclude=("bias",)), ValueError, "'bias' occurs in no path"),
    ],
)
def test_masks_that_do_not_fit_the_params_are_refused(
    mask: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        optim.masked(optim.adam(0.1), mask).init(PARAMS)


def test_path_mask_refuses_substrings_that_are_not_strings() -> None:
    with pytest.raises(TypeError, match="substrings of paths must be strings"):
        inspect.unwrap(optim.path_mask)("a", exclude="bias")
    with pytest.raises(TypeError, match="substrings of paths must be strings"):
        inspect.unwrap(optim.path_mask)(3)
