"""Count what 1 to 1,024 processes send and hold, without hardware, and estimate what limits them.

    python benchmarks/scaling.py [--models NAME ...] [--sizes N ...] [--write]

The steps are the real ones, of our functions and of FSDP2, as the first of n processes would run them
(`_recorder.py`): tensors without data, and a process group that only notes. What is counted: bytes of state, the
most bytes that computing the gradient takes beside it (whole params and gradients; of activations only those of 8
tokens), collectives and the bytes that a process sends for them in a ring. What is estimated, from data sheets:
the seconds of computing and of communication, none of it at the same time. `--write` puts the tables into
docs/scaling.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _model import small_config
from _module import LossModule
from _recorder import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, Collective, Recorder, pretended
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard import _fsdp_param
from torch.distributed.tensor import DTensor

import stages.step_gradient
from pure import optim, random, tree
from pure.config import ModelConfig, preset
from pure.nn.context_parallel import context_parallel
from pure.nn.tensor_parallel import tensor_parallel
from pure.nn.transformer import transformer
from pure.parallel.rows import cut
from pure.types import GradientTransformation, Model
from stages.data_parallel import data_parallel
from stages.pretrain import pretrain
from stages.run.mfu import flops_per_token
from stages.sharded import sharded
from stages.stage import Stage

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
START, END = "<!-- scaling -->", "<!-- /scaling -->"
SIZES = (1, 8, 64, 1024)
LENGTH = 8
"""Tokens of the one row of a process: few, so that activations do not count."""
EIGHT_BILLION = ModelConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
)
MODELS: Mapping[str, ModelConfig] = {
    "SmolLM2-135M": preset("smollm2_135m"),
    "Qwen3-0.6B": preset("qwen3_0.6b"),
    "Llama-3.2-1B": preset("llama3.2_1b"),
    "Llama-3.1-8B": EIGHT_BILLION,
}


class Counts(NamedTuple):
    """What one process holds and sends in a step.

    Fields:
        state: bytes of params and optimizer state.
        peak: most bytes beside the state until the gradient is complete and summed.
        collectives: in their order.
    """

    state: int
    peak: int
    collectives: tuple[Collective, ...]

    def sent(self, kind: str | None = None) -> float:
        """Return the bytes sent by collectives of a kind; None: by all."""
        return sum(x.sent for x in self.collectives if kind in (None, x.kind))


class Machine(NamedTuple):
    """What a cluster can do, by data sheets.

    Fields:
        flops: of a GPU, dense products in bfloat16, a second.
        mfu: share of them that a step reaches while it computes.
        memory: bytes of a GPU.
        per_node: GPUs of a node.
        node_speed: bytes a second that a GPU sends to another of its node, one way.
        network_speed: bytes a second of network for each GPU, one way.
        start, node_hop, network_hop: seconds: of a ring, and of each of its hops inside and between nodes.
        tree_node_hop, tree_network_hop: the same for trees.
    """

    flops: float = 989e12
    mfu: float = 0.4
    memory: float = 80e9
    per_node: int = 8
    node_speed: float = 450e9
    network_speed: float = 50e9
    start: float = 8.4e-6
    node_hop: float = 3.4e-6
    network_hop: float = 9.6e-6
    tree_node_hop: float = 28e-6
    tree_network_hop: float = 50e-6

    def seconds(self, collective: Collective) -> float:
        """Return the time of a collective by NCCL's own model: bytes over the slowest link, and a wait for each hop.

        In rings, or, for an all-reduce between nodes, in trees where they are quicker. Each ring leaves a node
        once, and there are as many rings as network links of a node.
        """
        if collective.size == 1:
            return 0.0
        nodes = -(-collective.size // self.per_node)
        speed = self.node_speed if nodes == 1 else min(self.node_speed, self.network_speed * self.per_node)
        rounds = 2 if collective.kind == ALL_REDUCE else 1
        between = rounds * (nodes - 1)
        inside = rounds * (collective.size - 1) - between
        ring = collective.sent / speed + inside * self.node_hop + between * self.network_hop
        if collective.kind != ALL_REDUCE or nodes == 1:
            return self.start + ring
        hops = (self.per_node - 1) * self.tree_node_hop + math.log2(nodes) * self.tree_network_hop
        return min(self.start + ring, 2 * hops + 2 * collective.bytes / (0.9 * speed))

    def communication(self, counts: Counts) -> float:
        """Return the seconds of all collectives of a step, one after the other."""
        return sum(self.seconds(x) for x in counts.collectives)

    def computing(self, config: ModelConfig, tokens: float, length: int) -> float:
        """Return the seconds in which a GPU computes the gradient of `tokens` tokens, in rows of `length`."""
        return tokens * flops_per_token(transformer(config), length) / (self.flops * self.mfu)


def count_ours(
    wrap: Callable[[Stage, DeviceMesh], Stage], cut_state: bool, config: ModelConfig, mesh: DeviceMesh
) -> Counts:
    """Count the second step of a stage of ours, wrapped for the processes of a mesh."""
    model = transformer(config)
    plain = pretrain(model, _optimizer(), compute=torch.bfloat16)
    params = tree.map(lambda spec: torch.empty(spec.shape, device="meta"), model.spec)
    state = plain.init(random.key(0, device="meta"), params)
    if cut_state:
        names = ("params", "opt_state", "extra")
        state = state._replace(**{name: cut(getattr(state, name), mesh) for name in names})
    tokens = torch.zeros(mesh.size(), LENGTH, dtype=torch.int64, device="meta")
    step = wrap(plain, mesh).step
    state = step(state, {"tokens": tokens, "labels": tokens})  # the first step has checks of its own
    with Recorder() as recorder, marked_gradients(recorder):
        step(state, {"tokens": tokens, "labels": tokens})
    return Counts(local_bytes((state.params, state.opt_state)), recorder.marked, tuple(recorder.collectives))


def count_fsdp2(config: ModelConfig, mesh: DeviceMesh) -> Counts:
    """Count a step of FSDP2 on a module of the same functions, a unit a layer, and AdamW.

    Params are gathered in bfloat16 and gradients summed in float32, as torchtitan does by default.
    """
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    with FakeTensorMode(), first_rows_only():
        params = tree.map(lambda spec: torch.empty(spec.shape), transformer(config).spec)
        module = LossModule(config, params)
        del params
        for layer in module.layers:
            fully_shard(layer, mesh=mesh, mp_policy=precision)
        fully_shard(module, mesh=mesh, mp_policy=precision)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
        with Recorder() as recorder:
            module(tokens, tokens).backward()
            recorder.mark()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        moments = [list(x.values()) for x in optimizer.state.values()]
        return Counts(
            local_bytes([list(module.parameters()), moments]), recorder.marked, tuple(recorder.collectives)
        )


@contextmanager
def first_rows_only() -> Iterator[None]:
    """Let FSDP2 cut out the rows of the first process alone; it makes those of all n, which takes minutes."""

    def first_chunk(x: Tensor, count: int, dim: int) -> list[Tensor]:
        return [x.narrow(dim, 0, -(-x.shape[dim] // count))]

    original = _fsdp_param._chunk_with_empty
    _fsdp_param._chunk_with_empty = first_chunk
    try:
        yield
    finally:
        _fsdp_param._chunk_with_empty = original


@contextmanager
def marked_gradients(recorder: Recorder) -> Iterator[None]:
    """Let the recorder know when a step of ours has its gradient, whose norms are computed next."""
    leaf_norms = stages.step_gradient.leaf_norms

    def mark_and_compute(grads: Any, *rest: Any) -> Tensor:
        recorder.mark()
        return leaf_norms(grads, *rest)

    stages.step_gradient.leaf_norms = mark_and_compute
    try:
        yield
    finally:
        stages.step_gradient.leaf_norms = leaf_norms


METHODS: Mapping[str, Callable[[ModelConfig, DeviceMesh], Counts]] = {
    "data_parallel": partial(count_ours, data_parallel, False),
    "sharded": partial(count_ours, sharded, True),
    "sharded, layers": partial(count_ours, partial(sharded, layers=True), True),
    "FSDP2": count_fsdp2,
}
"""Name -> counter of a step."""


CUT_MODELS: Mapping[str, Callable[[Model, DeviceMesh], Model]] = {
    "tensor_parallel": tensor_parallel,
    "context_parallel": context_parallel,
}
"""Name -> the function that lets a group compute a model."""


def count_model(way: str, config: ModelConfig, size: int, rows: int, length: int) -> Counts:
    """Count a step of a model that `size` processes compute together; activations are part of the peak.

    Raises:
        ValueError: if the model does not divide by the processes.
    """
    with pretended(size) as mesh:
        model = CUT_MODELS[way](transformer(config), mesh)
        stage = pretrain(model, _optimizer(), compute=torch.bfloat16)
        params = tree.map(lambda spec: torch.empty(spec.shape, device="meta"), model.spec)
        state = stage.init(random.key(0, device="meta"), params)
        tokens = torch.zeros(rows, length, dtype=torch.int64, device="meta")
        with Recorder() as recorder:
            stage.step(state, {"tokens": tokens, "labels": tokens})
        held = local_bytes((state.params, state.opt_state))
        return Counts(held, recorder.peak, tuple(recorder.collectives))


def count(method: str, config: ModelConfig, size: int) -> Counts:
    """Count a step of a method on `size` processes."""
    with pretended(size) as mesh:
        return METHODS[method](config, mesh)


def local_bytes(values: Any) -> int:
    """Count the bytes of the tensors in a tree that this process holds."""
    leaves = [x for x in tree.leaves(values) if isinstance(x, Tensor)]
    return sum(tree.nbytes(x.to_local() if isinstance(x, DTensor) else x) for x in leaves)


HEADING = (
    "processes", "way", "state GB", "gradient GB", ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, "collectives",
    "sent, of FSDP2's", "communication ms", "share of the step",
)  # fmt: skip
LIMITS_HEADING = (
    "model", "way", "fits from", "10% from", "50% from", "10% from, batch of 1M", "50% from, batch of 1M",
    "tokens for 10%",
)  # fmt: skip
GROUP_HEADING = (
    "model", "way", "processes", "state GB", "sent GB", "collectives", "communication ms", "computing ms",
    "share of the step",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; `--write` puts them into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="numbers of processes")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a process in a step (8192)")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row, for the FLOPs (4096)")
    parser.add_argument("--mfu", type=float, default=Machine().mfu, help="share of the peak FLOP/s (0.4)")
    parser.add_argument("--per_node", type=int, default=8, help="GPUs of a node (8)")
    parser.add_argument("--network", type=float, default=50.0, help="GB/s of network a GPU (50)")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args(arguments)
    machine = Machine(mfu=options.mfu, per_node=options.per_node, network_speed=options.network * 1e9)
    lines = [
        *tables(options.models, options.sizes, machine, options.tokens, options.length),
        "",
        *small_table(),
        "",
        f"### Models cut over the processes of a node: {options.tokens:,} tokens, of all processes",
        "",
        *group_table(options.models, machine, options.tokens, options.length),
    ]
    print("\n".join(lines))
    if options.write:
        write(PAGE, "\n".join(lines))


def tables(
    names: Sequence[str], sizes: Sequence[int], machine: Machine, tokens: int, length: int
) -> list[str]:
    """Return the table of limits, and one table a model, as lines of Markdown."""
    limits_lines, model_lines = [_row(LIMITS_HEADING), _row("---" for _ in LIMITS_HEADING)], []
    for name in names:
        config = MODELS[name]
        table = {size: {way: count(way, config, size) for way in METHODS} for size in sizes}
        for way in METHODS:
            counts = {size: row[way] for size, row in table.items()}
            limits_lines.append(_row((name, way, *limits(counts, config, machine, tokens, length))))
        parameters = tree.count(transformer(config).spec)
        computing = machine.computing(config, tokens, length)
        model_lines += ["", f"### {name}: {parameters:,} parameters, {computing * 1e3:.0f} ms to compute", ""]
        model_lines += model_table(table, machine, computing)
    return [*limits_lines, *model_lines]


def limits(
    table: Mapping[int, Counts], config: ModelConfig, machine: Machine, tokens: int, length: int
) -> Iterator[str]:
    """Yield the cells of a way in the table of limits; numbers of processes are those of the table."""
    fits = (n for n, x in table.items() if x.state + x.peak < machine.memory)
    yield str(next(fits, "-"))
    for total in (None, 1 << 20):
        for share in (0.1, 0.5):
            passed = (
                n
                for n, x in table.items()
                if share
                <= _share(
                    machine.communication(x),
                    machine.computing(config, total / n if total else tokens, length),
                )
            )
            yield str(next(passed, "-"))
    most = max(table)
    token = machine.computing(config, 1, length)
    yield f"{machine.communication(table[most]) * 9 / token:,.0f}"


def model_table(
    table: Mapping[int, Mapping[str, Counts]], machine: Machine, computing: float
) -> Iterator[str]:
    """Yield the lines of a model's table: {processes: {way: counts}}; `computing` in seconds a step."""
    yield _row(HEADING)
    yield _row("---" for _ in HEADING)
    for size, counts in table.items():
        for way, x in counts.items():
            seconds = machine.communication(x)
            yield _row((*counted_cells(size, way, x, counts["FSDP2"]), *_time_cells(seconds, computing)))


def counted_cells(size: int, way: str, counts: Counts, fsdp2: Counts) -> Iterator[str]:
    """Yield the cells that are counted: everything but times."""
    yield from (f"{size:,}", way, _gigabytes(counts.state), _gigabytes(counts.peak))
    yield from (_gigabytes(counts.sent(kind)) for kind in (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER))
    yield str(len(counts.collectives) if size > 1 else 0)
    yield f"{counts.sent() / fsdp2.sent():.2f}" if fsdp2.sent() else "-"


def group_table(names: Sequence[str], machine: Machine, tokens: int, length: int) -> Iterator[str]:
    """Yield the table of models that the processes of one node compute together."""
    yield _row(GROUP_HEADING)
    yield _row("---" for _ in GROUP_HEADING)
    for name in names:
        for way in CUT_MODELS:
            for size in (2, 4, 8):
                if way == "tensor_parallel" and not _divides(MODELS[name], size):
                    continue
                x = count_model(way, MODELS[name], size, max(1, tokens // length), length)
                seconds = machine.communication(x)
                computing = machine.computing(MODELS[name], tokens, length) / size
                cells = (_gigabytes(x.state), _gigabytes(x.sent()), str(len(x.collectives)))
                times = (
                    f"{seconds * 1e3:.3g}",
                    f"{computing * 1e3:.3g}",
                    f"{_share(seconds, computing):.1%}",
                )
                yield _row((name, way, str(size), *cells, *times))


def small_table() -> Iterator[str]:
    """Yield the table of a model of 2 layers on 8 processes, which a test counts again."""
    config = small_config(num_hidden_layers=2)
    yield f"### A small model: {tree.count(transformer(config).spec):,} parameters"
    yield ""
    yield _row(HEADING[:-2])
    yield _row("---" for _ in HEADING[:-2])
    counts = {way: count(way, config, 8) for way in METHODS}
    for way, x in counts.items():
        yield _row(counted_cells(8, way, x, counts["FSDP2"]))


def write(path: Path, lines: str) -> None:
    """Put the tables between the two marks of a page."""
    before, rest = path.read_text(encoding="utf8").split(START)
    path.write_text(f"{before}{START}\n{lines}\n{END}{rest.split(END)[1]}", encoding="utf8")


def _optimizer() -> GradientTransformation:
    return optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-3))


def _divides(config: ModelConfig, size: int) -> bool:
    """Whether heads, channels and words can be dealt out evenly."""
    heads = (config.num_attention_heads, config.num_key_value_heads)
    return not any(x % size for x in (*heads, config.intermediate_size, config.vocab_size))


def _time_cells(seconds: float, computing: float) -> tuple[str, str]:
    return f"{seconds * 1e3:.3g}", f"{_share(seconds, computing):.1%}"


def _share(communication: float, computing: float) -> float:
    """The part of a step that is communication, if nothing is done at the same time."""
    return communication / (communication + computing)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.4g}"


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
