"""One core's share of a kernel at its true size, on a core of its own: the program in .venv-tt.

    python -m tests.chip.shares run ROWS.jsonl [CASE…]

A core of these kernels works on columns that no other core touches, so the busiest core's share
keeps a core exactly as long alone as in the crowd, and a simulator in Python runs it in seconds.
Named like the case of the whole; weights in bf16, as wolfpine unpacks no bfp8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from kernels.runtime import P150_GRID, TILE, Grid
from tests.chip.state.answering import Answer, answer_all

Size = tuple[str, int, int, Grid]
"""Of what, K, N, and the grid of the whole."""
SHARES: dict[str, Size] = {
    "linear_hp-e4b-qkv-bf16": ("linear_hp", 2560, 3072, P150_GRID),
    "linear_hp-e4b-gate-bf16": ("linear_hp", 2560, 10240, P150_GRID),
    "linear_hp-e2b-gate-bf16": ("linear_hp", 1536, 6144, P150_GRID),
    "norm_linear-e4b-qkv-sliding-bf16": ("norm_linear", 2560, 3072, P150_GRID),
    "norm_linear-e2b-qkv-full-bf16": ("norm_linear", 1536, 5120, P150_GRID),
    "gelu_mul-e4b": ("gelu_mul", 0, 10240, P150_GRID),
}


def columns(n: int, grid: Grid) -> int:
    """The busiest core's."""
    return TILE * -(-n // TILE // (grid[0] * grid[1]))


def run_share(name: str, device: Any) -> Answer:
    """Runs a share like any case."""
    from tests.kernels import case as cases

    return asdict(cases.run(share(name), device)) | {"name": name}


def share(name: str) -> Any:
    """The case of a share."""
    kernel, k, n, grid = SHARES[name]
    n = columns(n, grid)
    makers: dict[str, Callable[[], Any]] = {
        "linear_hp": lambda: _linear_hp(k, n),
        "norm_linear": lambda: _norm_linear(k, n),
        "gelu_mul": lambda: _gelu_mul(n),
    }
    return makers[kernel]()


def _linear_hp(k: int, n: int) -> Any:
    from kernels.linear import LinearHpConfig, linear_hp
    from tests.kernels.cases.linear import case

    return case(linear_hp, "share", LinearHpConfig(k, n, (1, 1)), "small")


def _norm_linear(k: int, n: int) -> Any:
    from tests.kernels.cases.norm_linear import case

    return case("share", k, n, (1, 1), "small", "bf16")


def _gelu_mul(n: int) -> Any:
    from tests.kernels.cases.gelu_mul import case

    return case("share", n, (1, 1), "small")


if __name__ == "__main__":
    answer_all({name: partial(run_share, name) for name in SHARES})
