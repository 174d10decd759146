"""A kernel of one node made from the text of its threads, run, and compared with torch.

Knows no construct that is asked about: those are in probes.py.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kernels import runtime
from tests.chip.state.answering import Answer

Shape = tuple[int, int]
Torch = Callable[..., torch.Tensor]
NAMES = "abcdefgh"


@dataclass(frozen=True)
class Probe:
    """y = `want`(a, b, …), computed by `compute`; shapes in tiles."""

    compute: str
    """The compute thread; or one expression of a_, b_, … over whole blocks."""
    inputs: Sequence[Shape]
    y: Shape
    want: Torch
    formats: Sequence[runtime.Format] = ()
    y_format: runtime.Format = "bf16"
    buffers: str = ""
    read: str | None = None
    """The reading thread, where it is not the obvious one."""
    options: str = ""
    """More arguments of the operation."""
    values: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]] = list
    """Makes the inputs from normal values."""
    columns: int | None = None
    """How many columns of y mean something."""


SOURCE = """\
from kernels import runtime
from kernels.runtime import ttl, ttnn

F32, BF16 = runtime.like("f32"), runtime.like("bf16")


def make():
    @ttl.operation(grid=(1, 1){options})
    def op({tensors}, y: ttnn.Tensor) -> None:
{buffers}
        y_dfb = ttl.make_dataflow_buffer_like(y, shape={y}, block_count=2)

        @ttl.datamovement()
        def read():
{read}

        @ttl.compute()
        def compute():
{compute}

        @ttl.datamovement()
        def write():
            with y_dfb.wait() as y_:
                ttl.copy(y_, y[0:{y[0]}, 0:{y[1]}]).wait()

    return op
"""


def buffer(like: str, shape: Shape) -> str:
    """The text of two blocks."""
    return f"ttl.make_dataflow_buffer_like({like}, shape={shape}, block_count=2)"


def source(probe: Probe) -> str:
    """The kernel's text: TT-Lang reads a kernel's source, so it is written to a file."""
    names = NAMES[: len(probe.inputs)]
    buffers, read = "", ""
    for name, shape in zip(names, probe.inputs, strict=True):
        if f"{name}_dfb =" not in probe.buffers:
            buffers += f"{name}_dfb = {buffer(name, shape)}\n"
        read += (
            f"with {name}_dfb.reserve() as blk:\n"
            f"    ttl.copy({name}[0:{shape[0]}, 0:{shape[1]}], blk).wait()\n"
        )
    compute = probe.compute
    if "\n" not in compute:
        used = [name for name in names if re.search(rf"\b{name}_\b", compute)]
        waits = "".join(f"{name}_dfb.wait() as {name}_, " for name in used)
        compute = f"with {waits}y_dfb.reserve() as y_:\n    y_.store({compute})"
    indented = {
        "buffers": textwrap.indent(buffers + textwrap.dedent(probe.buffers), " " * 8),
        "read": textwrap.indent(textwrap.dedent(probe.read or read), " " * 12),
        "compute": textwrap.indent(textwrap.dedent(compute), " " * 12),
    }
    return SOURCE.format(
        tensors=", ".join(f"{name}: ttnn.Tensor" for name in names),
        options=probe.options,
        y=probe.y,
        **indented,
    )


def load(text: str) -> Any:
    """A module of that text."""
    file = Path(tempfile.mkdtemp(prefix="probe-")) / f"kernel_{abs(hash(text)):x}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def operands(probe: Probe, device: Any) -> tuple[list[Any], torch.Tensor, Any]:
    """The inputs on the device, what torch makes of them, and the output, not yet written."""
    generator = torch.Generator().manual_seed(0)
    normal = [torch.randn(32 * r, 32 * c, generator=generator) * 0.3 for r, c in probe.inputs]
    formats = probe.formats or ["bf16"] * len(normal)
    pairs = zip(probe.values(normal), formats, strict=True)
    tensors = [runtime.put(tensor, fmt, device) for tensor, fmt in pairs]
    want = probe.want(*(runtime.get(tensor) for tensor in tensors))
    poison = torch.full((32 * probe.y[0], 32 * probe.y[1]), 77.0)
    return tensors, want, runtime.put(poison, probe.y_format, device)


def compared(got: torch.Tensor, want: torch.Tensor) -> Answer:
    """How far off a result is, in bf16 roundings of each row's largest."""
    unit = want.abs().amax(-1, keepdim=True).clamp_min(1e-30) * 2.0**-8
    off = ((got - want).abs() / unit).nan_to_num(nan=torch.inf)
    return {
        "wrong": (off > 4).float().mean().item(),
        "nan": bool(got.isnan().any()),
        "roundings": min(off.max().item(), 1e30),
        "error_max": min((got - want).abs().nan_to_num(nan=1e30).max().item(), 1e30),
    }


def ask(probe: Probe | Callable[[Any], Answer], device: Any) -> Answer:
    """Runs a probe; one row."""
    if not isinstance(probe, Probe):
        return probe(device)
    tensors, want, y = operands(probe, device)
    load(source(probe)).make()(*tensors, y)
    return compared(runtime.get(y)[:, : probe.columns], want[:, : probe.columns])
