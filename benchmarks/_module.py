"""Our model as a torch.nn.Module, for peers that want one (DDP, FSDP2): the same functions, so the same kernels.

One submodule a layer, so that `fully_shard` can take layer by layer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from pure import tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import linear_cross_entropy
from pure.nn.transformer import transformer
from pure.types import Tree
from stages.pretrain import next_token_loss


class Leaves(nn.Module):
    """Holds the leaves of a tree as parameters."""

    def __init__(self, params: Tree) -> None:
        super().__init__()
        leaves, self.spec = tree.flatten(params)
        self.names = [path.replace("/", "_") for path in tree.paths(params)]
        for name, x in zip(self.names, leaves, strict=True):
            self.register_parameter(name, nn.Parameter(x.detach().clone()))

    def params(self) -> Tree:
        """Return the tree of parameters."""
        return tree.unflatten(self.spec, [getattr(self, name) for name in self.names])


class LayerModule(Leaves):
    """One layer."""

    def __init__(self, params: Tree, layer: Any) -> None:
        super().__init__(params)
        self.layer = layer

    def forward(self, *args: Any) -> Any:
        """Call the layer with its parameters."""
        return self.layer(self.params(), *args)


class LossModule(Leaves):
    """The whole model, whose result is the mean loss of a batch.

    Args:
        config: of the model.
        params: of `transformer(config)`; copied.
        wrap_block: of `transformer`.
    """

    def __init__(self, config: ModelConfig, params: Tree, wrap_block: Any = None) -> None:
        super().__init__({name: x for name, x in params.items() if name != "layers"})
        found: list[Any] = []

        def call_module(layer: Any) -> Any:
            found.append(layer if wrap_block is None else wrap_block(layer))
            return lambda module, *args: module(*args)

        model = transformer(config, wrap_block=call_module)
        self.layers = nn.ModuleList(LayerModule(x, found[0]) for x in params["layers"])
        head = partial(linear_cross_entropy, logits=model.logits)
        self.loss = partial(next_token_loss, model=model, head=head)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of tokens and labels [B, T]."""
        params = {**self.params(), "layers": list(self.layers)}
        batch = {"tokens": tokens, "labels": labels}
        total, count, _ = self.loss(params, batch, None)
        return total / count
