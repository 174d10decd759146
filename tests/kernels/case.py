"""What a kernel's case is, how one runs on the chosen runtime, and how wrong a result is.

A family declares its cases once, in tests/kernels/cases/FAMILY.py; the functional simulator, the
compiler, wolfpine, the vendor's simulator, the traffic account and the report all read that table.
`kernels.runtime.choose` comes before the first case module.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from kernels import runtime
from kernels.runtime import N150_GRID, P150_GRID, Format, Grid

Size = Literal["small", "full"]
POISON = 77.0
"""What an output holds before a kernel writes it."""
BF16_ROUNDING = 2.0**-8
"""The most that rounding to bfloat16 changes a number, relative to it."""


@dataclass(frozen=True)
class Operand:
    """One tensor of a call, in the order of the call.

    `read` is input; `write` is output, poisoned first; `update` is changed in place; `scratch` is
    whatever the kernel likes and nobody looks at.
    """

    name: str
    tensor: torch.Tensor
    fmt: Format = "bf16"
    role: Literal["read", "write", "update", "scratch"] = "read"


Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One kernel at one shape, against torch in float32 on what the device holds."""

    name: str
    kernel: str
    shapes: str
    grid: Grid
    operation: Callable[[], Callable[..., None]]
    operands: Callable[[torch.Generator], Sequence[Operand]]
    oracle: Callable[[Tensors], Tensors]
    """Wanted outputs by name; the keys decide what is compared."""
    size: Size = "small"
    roundings: float = 2.0
    """The bound, in bf16 roundings of the output row's largest value."""
    weights: tuple[str, ...] = ()
    """Operands that must be read once, by at least 64 cores on p150."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why a simulator ("wolfpine", "ttsim") or the compiler for a board ("n150") cannot run it."""

    @property
    def boards(self) -> tuple[str, ...]:
        """On which its grid fits."""
        limits = {"p150": P150_GRID, "n150": N150_GRID}
        fits = [b for b, (x, y) in limits.items() if self.grid[0] <= x and self.grid[1] <= y]
        return tuple(b for b in fits if b not in self.refused)


@dataclass(frozen=True)
class Result:
    """What a run showed."""

    name: str
    kernel: str
    shapes: str
    nodes: int
    roundings: float
    bound: float
    seconds: float
    digest: str
    """Of the outputs' bits: two simulators that agree have the same."""

    @property
    def good(self) -> bool:
        """Within its bound (a NaN is not)."""
        return self.roundings <= self.bound


def all_cases() -> list[Case]:
    """Every family's table; names are unique."""
    package = importlib.import_module("tests.kernels.cases")
    found: list[Case] = []
    for module in pkgutil.iter_modules(package.__path__):
        found += importlib.import_module(f"{package.__name__}.{module.name}").CASES
    names = [case.name for case in found]
    assert len(set(names)) == len(names), "two cases share a name"
    return found


def roundings(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest error in bf16 roundings of the largest value of its row; infinite for a NaN."""
    if not torch.isfinite(got).all():
        return float("inf")
    unit = want.abs().amax(-1, keepdim=True).clamp_min(1e-30) * BF16_ROUNDING
    return float(((got - want).abs() / unit).max())


def run(case: Case, device: Any) -> Result:
    """Runs a case once on the chosen runtime; its time includes the compile."""
    generator = torch.Generator().manual_seed(0)
    operands = case.operands(generator)
    tensors = {
        o.name: runtime.put(
            torch.full_like(o.tensor, POISON) if o.role == "write" else o.tensor, o.fmt, device
        )
        for o in operands
    }
    held = {o.name: runtime.get(tensors[o.name]) for o in operands if o.role in ("read", "update")}
    held = {name: tensor.clone() for name, tensor in held.items()}
    operation = case.operation()
    start = time.perf_counter()
    operation(*tensors.values())
    runtime.synchronize(device)
    seconds = time.perf_counter() - start
    wanted = case.oracle(held)
    got = {name: runtime.get(tensors[name]) for name in wanted}
    digest = hashlib.sha256()
    for tensor in got.values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return Result(
        name=case.name,
        kernel=case.kernel,
        shapes=case.shapes,
        nodes=case.grid[0] * case.grid[1],
        roundings=max(roundings(got[name], wanted[name]) for name in wanted),
        bound=case.roundings,
        seconds=seconds,
        digest=digest.hexdigest(),
    )


def compile_only(case: Case, device: Any) -> None:
    """Calls the operation on a mock card; with TTLANG_COMPILE_ONLY=1 that compiles and stops."""
    operands = case.operands(torch.Generator().manual_seed(0))
    case.operation()(*(runtime.put(o.tensor, o.fmt, device) for o in operands))


def least_bytes(case: Case) -> dict[str, int]:
    """What each weight takes in DRAM: it must cross once."""
    operands = {o.name: o for o in case.operands(torch.Generator().manual_seed(0))}
    return {
        name: operands[name].tensor.numel() // 1024 * runtime.TILE_BYTES[operands[name].fmt]
        for name in case.weights
    }


def of_size(size: Size) -> Iterator[Case]:
    """The cases of a size."""
    return (case for case in all_cases() if case.size == size)
