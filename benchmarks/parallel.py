"""A step on several processes against torch's DDP and FSDP2: CPU seconds, memory, bytes of state.

    python benchmarks/parallel.py [--pairs N] [--processes N] [--device cuda] [--compile]

Model: 11.4M parameters, float32, eager; batch: 8 rows of 32 tokens in all; AdamW, clipping to norm 1. (Flags
change each.) The peers'
module calls our functions with its own parameters (`_module.py`), so that the kernels are the same, and FSDP2
takes it layer by layer. Processes on 127.0.0.1 by gloo, one thread each; on CUDA one GPU each, by NCCL.

Each side has processes of its own, which stay. In a round every side takes its steps in turn, and the figure is
the median over rounds of the quotient of ours and the peer's. On a CPU the time is that of the processor (all
threads of a process, the mean over processes), as other programs slow a clock on the wall; on CUDA it is the
clock's. Peak: the most memory that a process of a second launch, which frees memory at once, takes in a step
above what it had before the model was made.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from _model import small_config
from _module import LossModule
from _timing import resident_bytes
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from pure import optim, random, tree
from pure.config import PRESETS, ModelConfig, preset
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from pure.types import ParamSpec, Tree
from stages.data_parallel import data_parallel
from stages.pretrain import pretrain
from stages.sharded import sharded
from stages.stage import Stage

RATE, CLIP = 1e-3, 1.0
SECONDS = 600.0
"""Longest wait for the answers of all processes of a side."""


class Setting(NamedTuple):
    """What all sides compute.

    Fields:
        preset: name of a ModelConfig; None: the model of 11.4M parameters.
        rows, length: B of the whole batch, and T.
        dtype: of the products: "float32" or "bfloat16".
        device: "cpu" or "cuda".
        compiled: whether steps are compiled.
    """

    preset: str | None
    rows: int
    length: int
    dtype: str
    device: str
    compiled: bool

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        if self.preset is not None:
            return preset(self.preset)
        return small_config(
            hidden_size=384, intermediate_size=1088, num_attention_heads=6, num_key_value_heads=2
        )

    @property
    def batch(self) -> dict[str, Tensor]:
        """Random tokens and labels [B, T], the whole batch."""
        shape = (self.rows, self.length + 1)
        tokens = random.randint(random.key(1), shape, 0, self.config.vocab_size).long().to(self.device)
        return {"tokens": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}

    @property
    def params(self) -> Tree:
        """Params, the same in every process. (torch's generator, as our own takes seconds in eager code.)"""
        generator = torch.Generator().manual_seed(0)

        def draw(spec: ParamSpec) -> Tensor:
            if spec.init != "normal":
                return torch.full(spec.shape, float(spec.init == "ones"), device=self.device)
            return torch.normal(0.0, spec.std, spec.shape, generator=generator).to(self.device)

        return tree.map(draw, transformer(self.config).spec)


class Side(NamedTuple):
    """A way to train, prepared in one process.

    Fields:
        take_step: takes one step.
        state_bytes: () -> bytes of params and optimizer state that this process holds.
    """

    take_step: Callable[[], Any]
    state_bytes: Callable[[], int]


def our_side(wrap: Callable[[Stage, DeviceMesh], Stage], setting: Setting, mesh: DeviceMesh) -> Side:
    """Prepare a stage of ours."""
    optimizer = optim.chain(optim.clip_by_global_norm(CLIP), optim.adamw(RATE))
    compute = getattr(torch, setting.dtype)
    stage = wrap(pretrain(transformer(setting.config), optimizer, compute=compute), mesh)
    held = [stage.init(random.key(0, device=setting.device), setting.params)]
    step = jit(stage.step, donate=True, regions=True) if setting.compiled else stage.step
    data = setting.batch

    def take_step() -> None:
        held.append(step(held.pop(), data))

    return Side(take_step, lambda: local_bytes((held[0].params, held[0].opt_state)))


def peer_side(shard: bool, setting: Setting, mesh: DeviceMesh) -> Side:
    """Prepare DDP, or FSDP2."""
    device, dtype = setting.device, getattr(torch, setting.dtype)
    module: Any = LossModule(setting.config, setting.params)
    if setting.compiled:
        for layer in module.layers:
            layer.compile()
    if shard:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for layer in module.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(module, mesh=mesh, mp_policy=policy)
    elif mesh.size() > 1:
        module = torch.nn.parallel.DistributedDataParallel(module, process_group=mesh.get_group())
    faster = {"fused": True} if device == "cuda" else {"foreach": True}
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=1e-4, **faster)
    own = [x.tensor_split(mesh.size())[mesh.get_rank()] for x in setting.batch.values()]

    def take_step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16 and not shard):
            loss = module(*own)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    def state_bytes() -> int:
        return local_bytes([list(module.parameters()), [list(x.values()) for x in optimizer.state.values()]])

    return Side(take_step, state_bytes)


SIDES: Mapping[str, Callable[[Setting, DeviceMesh], Side]] = {
    "one_process": partial(our_side, lambda stage, mesh: stage),
    "data_parallel": partial(our_side, data_parallel),
    "DDP": partial(peer_side, False),
    "sharded": partial(our_side, sharded),
    "sharded_layers": partial(our_side, partial(sharded, layers=True)),
    "FSDP2": partial(peer_side, True),
}
"""Name -> builder of a side."""
TARGETS = (
    ("data_parallel", "DDP", 1.3, None),
    ("sharded", "FSDP2", 1.2, None),
    ("sharded_layers", "FSDP2", 1.2, 1.15),
)
"""(ours, the peer, highest quotient of times, of peaks; None: no target)."""


def local_bytes(values: Any) -> int:
    """Count the bytes of the tensors in a tree that this process holds."""
    leaves = [x for x in tree.leaves(values) if isinstance(x, Tensor)]
    return sum(tree.nbytes(x.to_local() if isinstance(x, DTensor) else x) for x in leaves)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a side, and the quotients."""
    options = _parser().parse_args(arguments)
    setting = Setting(
        options.preset, options.rows, options.length, options.dtype, options.device, options.compile
    )
    names = options.sides or tuple(SIDES)
    sizes = {name: 1 if name == "one_process" else options.processes for name in names}
    model = transformer(setting.config)
    print(
        f"{tree.count(model.spec):,} parameters, {setting.rows} rows of {setting.length} tokens, {setting.dtype}, "
        f"{'compiled' if setting.compiled else 'eager'}, {options.processes} processes, {setting.device}, torch "
        f"{torch.__version__}"
    )
    times = measure_times(names, sizes, setting, options.pairs, options.steps)
    memory = {}
    for name in names:
        with crew(name, sizes[name], setting, True) as ends:
            memory[name] = tuple(max(values) for values in zip(*ask(ends, ("memory", 2)), strict=True))
    print(f"{'':<18} {'ms a step':>22} {'tokens/s':>10} {'peak MB':>9} {'state MB':>9}")
    for name in names:
        median, least, most = (f(times[name]) * 1e3 for f in (statistics.median, min, max))
        peak, state = (x / 1e6 for x in memory[name])
        # CPU seconds are no throughput.
        rate = f"{setting.rows * setting.length / median * 1e3:,.0f}" if setting.device == "cuda" else "-"
        spread = f"{median:.0f} ({least:.0f}-{most:.0f})"
        print(f"{name:<18} {spread:>22} {rate:>10} {peak:9.0f} {state:9.1f}")
    for line in compare(times, {name: x[0] for name, x in memory.items()}):
        print(line)


def measure_times(
    names: Sequence[str], sizes: Mapping[str, int], setting: Setting, rounds: int, steps: int
) -> dict[str, list[float]]:
    """Return the seconds a step of each side, in each of `rounds` rounds."""
    times: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        crews = {name: stack.enter_context(crew(name, sizes[name], setting, False)) for name in names}
        for i in range(rounds + 1):
            for name in names if i % 2 else names[::-1]:
                seconds = statistics.fmean(ask(crews[name], ("time", steps)))
                if i:  # the first round warms up
                    times[name].append(seconds)
    return times


def compare(times: Mapping[str, Sequence[float]], peaks: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each row of TARGETS whose sides were measured: quotients of times, round by round."""
    for ours, peer, time_target, peak_target in TARGETS:
        if ours not in times or peer not in times:
            continue
        ratio = statistics.median(a / b for a, b in zip(times[ours], times[peer], strict=True))
        peak = peaks[ours] / peaks[peer]
        goals = "" if peak_target is None else f", at most {peak_target:.2f}: {_verdict(peak, peak_target)}"
        yield (
            f"{ours} / {peer}: time {ratio:.2f}, at most {time_target:.2f}: {_verdict(ratio, time_target)}; "
            f"peak {peak:.2f}{goals}"
        )


@contextmanager
def crew(name: str, size: int, setting: Setting, trim: bool) -> Iterator[list[Connection]]:
    """Start the processes of a side; yields the ends of their pipes. `trim`: they free memory at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__"])
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ends, processes = [], []
    for rank in range(size):
        here, there = context.Pipe()
        given = (there, rank, size, store.port, name, setting, trim)
        process = context.Process(target=_serve, args=given, daemon=True)
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.join(20)
            if process.is_alive():
                process.kill()


def ask(ends: list[Connection], request: tuple[str, int]) -> list[Any]:
    """Send a request to all processes of a side, and return their answers.

    Raises:
        RuntimeError: if one ended, or gave no answer in SECONDS.
    """
    for end in ends:
        end.send(request)
    answers = []
    for rank, end in enumerate(ends):
        if not end.poll(SECONDS):
            raise RuntimeError(f"process {rank} gave no answer to {request} in {SECONDS:.0f} s")
        try:
            answers.append(end.recv())
        except EOFError:
            raise RuntimeError(f"process {rank} failed on {request}; see its traceback") from None
    return answers


def _serve(end: Connection, rank: int, size: int, port: int, name: str, setting: Setting, trim: bool) -> None:
    """Body of a process: joins the others, prepares the side, and answers until its pipe closes."""
    torch.set_num_threads(1)
    if trim:
        _free_at_once()
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    device = setting.device
    backend = "gloo" if device == "cpu" else "nccl"
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=SECONDS)
    )
    gc.collect()
    base = resident_bytes("VmRSS")
    side = SIDES[name](setting, init_device_mesh(device, (size,)))
    try:
        while True:
            request, steps = end.recv()
            end.send({"time": _time, "memory": _memory}[request](side, steps, device, base))
    except EOFError:
        pass
    dist.destroy_process_group()


def _time(side: Side, steps: int, device: str, base: int) -> float:
    """Seconds a step: of the processor, or of the clock on CUDA."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    _wait(device)
    start = clock()
    for _ in range(steps):
        side.take_step()
    _wait(device)
    return (clock() - start) / steps


def _memory(side: Side, steps: int, device: str, base: int) -> tuple[int, int]:
    """Peak bytes above `base`, and bytes of state, after `steps` steps."""
    for _ in range(steps):
        side.take_step()
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        side.take_step()
        return torch.cuda.max_memory_allocated(), side.state_bytes()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak to the memory in use
    side.take_step()
    return resident_bytes("VmHWM") - base, side.state_bytes()


def _wait(device: str) -> None:
    """Waits for the device's work."""
    if device == "cuda":
        torch.cuda.synchronize()


def _free_at_once() -> None:
    """Lets glibc give freed memory back, so that resident memory is the memory in use."""
    trim_threshold, mmap_threshold = -1, -3
    library = ctypes.CDLL(None)
    library.mallopt(mmap_threshold, 65536)
    library.mallopt(trim_threshold, 65536)


def _verdict(value: float, target: float) -> str:
    return "reached" if value <= target else "MISSED"


def _parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--pairs", type=int, default=10, help="rounds that are timed (default 10)")
    result.add_argument("--steps", type=int, default=3, help="steps of a side in a round (default 3)")
    result.add_argument("--processes", type=int, default=2, help="processes of a side (default 2)")
    result.add_argument("--sides", nargs="+", choices=tuple(SIDES), help="only these (default: all)")
    result.add_argument("--preset", choices=tuple(PRESETS), help="another model")
    result.add_argument("--rows", type=int, default=8, help="rows of the whole batch (default 8)")
    result.add_argument("--length", type=int, default=32, help="tokens of a row (default 32)")
    result.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the products")
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    result.add_argument("--compile", action="store_true", help="compile all sides, layer by layer")
    return result


if __name__ == "__main__":
    main()
