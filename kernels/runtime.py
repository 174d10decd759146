"""Which TT-Lang runs the kernels: a chip's or the functional simulator, chosen once a process.

    from kernels import runtime
    runtime.choose("sim")                 # or "tt"; before the first kernel file is imported
    from kernels import linear

`tt` is the real compiler and the real ttnn: a card, a simulated chip when TT_METAL_SIMULATOR is
set, or a mock card to compile for; nothing in this project can tell them apart. `sim` is TT-Lang's
functional simulator, mended by `kernels.simulator`. A kernel file says
`from kernels.runtime import ttl, ttnn`, which makes `ttl` the module global that TT-Lang wants,
and so one source serves both. Knows nothing of any kernel.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    import ttl as ttl
    import ttnn as ttnn

Kind = Literal["sim", "tt"]
Format = Literal["bf16", "bfp8", "bfp4", "f32"]
Grid = tuple[int, int]
"""Columns and rows of cores: x is a tile's place in a row, node = y · columns + x."""

TILE = 32
TILE_BYTES: dict[Format, int] = {"bf16": 2048, "bfp8": 1088, "bfp4": 576, "f32": 4096}
P150_GRID: Grid = (11, 10)
"""What firmware leaves of a p150; its mock offers more."""
N150_GRID: Grid = (8, 8)
L1_BYTES = 1_461_760
"""What a core's dataflow buffers may take together."""
N150_L1_BYTES = 1_395_424
"""The same of an n150, whose cores have less."""
MAX_BUFFERS = 32


class RuntimeUnavailableError(Exception):
    """This Python lacks what the chosen runtime needs; the message says what to install."""


@dataclass(frozen=True)
class Like:
    """Stands where `make_dataflow_buffer_like` wants a tensor: it reads the number format only."""

    dtype: Any
    shape: tuple[int, int] = (1 << 20, 1 << 20)
    layout: Any = None
    underlying_dtype: Any = None

    def size_in_bytes(self, n_elements: int) -> int:
        """L1 that so many elements take (asked by the simulator)."""
        return n_elements * TILE_BYTES[_format_of(self.dtype)] // (TILE * TILE)


@dataclass(frozen=True)
class _Chosen:
    kind: Kind
    ttl: Any
    ttnn: Any


_chosen: _Chosen | None = None


def choose(kind: Kind) -> None:
    """Loads a runtime. A second choice of the same is free, of the other an error."""
    global _chosen
    if _chosen is not None:
        if _chosen.kind != kind:
            raise RuntimeError(f"kernels already run on {_chosen.kind!r} in this process")
        return
    _chosen = _simulator() if kind == "sim" else _chip()


def _simulator() -> _Chosen:
    try:
        from kernels import simulator
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"the functional simulator is missing ({error}): pip install tt-lang-sim==1.1.1"
        ) from error
    return _Chosen("sim", simulator.ttl, simulator.ttnn)


def _chip() -> _Chosen:
    try:
        real_ttnn = importlib.import_module("ttnn")
        real_ttl = importlib.import_module("ttl")
        compiler: Any = importlib.import_module("ttl.ttl_api")
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"TT-Lang is missing ({error}): Python 3.12 and pip install tt-lang==1.1.1"
        ) from error
    compiler.print = _silent  # it prints every kernel's C++, and a service's stdout is its own
    return _Chosen("tt", real_ttl, real_ttnn)


def _silent(*_: object, **__: object) -> None:
    return None


def _current() -> _Chosen:
    if _chosen is None:
        raise RuntimeError('say kernels.runtime.choose("sim" or "tt") before importing a kernel')
    return _chosen


def kind() -> Kind:
    """The runtime chosen."""
    return _current().kind


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in ("ttl", "ttnn"):
            return getattr(_current(), name)
        raise AttributeError(name)


# --- What differs between the two ttnn, under one name ----------------------------------------


def dtype(fmt: Format) -> Any:
    """Ttnn's name of a number format.

    Raises:
        RuntimeUnavailableError: the chosen runtime does not know it.
    """
    if fmt == "bfp4" and kind() == "sim":
        raise RuntimeUnavailableError("the functional simulator knows no bfp4: take bfp8 weights")
    names = {"bf16": "bfloat16", "bfp8": "bfloat8_b", "bfp4": "bfloat4_b", "f32": "float32"}
    return getattr(_current().ttnn, names[fmt])


def _format_of(native: Any) -> Format:
    formats: tuple[Format, ...] = ("bf16", "bfp8", "f32")
    return next(fmt for fmt in formats if dtype(fmt) == native)


def like(fmt: Format) -> Any:
    """A likeness for a dataflow buffer in a format that none of the operation's tensors has."""
    if kind() == "tt":
        return Like(dtype(fmt))
    import torch

    return Like(dtype(fmt), layout=_current().ttnn.TILE_LAYOUT, underlying_dtype=torch.float32)


def open_device(device_id: int = 0) -> Any:
    """The accelerator; in the simulator a handle that means nothing."""
    return _current().ttnn.open_device(device_id=device_id)


def close_device(device: Any) -> None:
    """Gives the accelerator back."""
    _current().ttnn.close_device(device)


def accelerator(board: str) -> str:
    """What runs the kernels, in words. A simulated chip tells itself by its variable."""
    if kind() == "sim":
        return f"functional simulator of a {board}"
    return f"simulated {board}" if os.environ.get("TT_METAL_SIMULATOR") else board


def synchronize(device: Any) -> None:
    """Returns when the device has done all that it was given."""
    _current().ttnn.synchronize_device(device)


def put(tensor: torch.Tensor, fmt: Format, device: Any) -> Any:
    """A host tensor, tiled, in the device's DRAM, rounded to its format."""
    real = _current().ttnn
    return real.from_torch(
        tensor.contiguous(), dtype=dtype(fmt), layout=real.TILE_LAYOUT, device=device
    )


def load(file: Path, shape: tuple[int, int], fmt: Format, device: Any) -> Any:
    """A prepared matrix from its file (`kernels.tensorbin`) into the device's DRAM, as it is.

    Nothing is converted: real ttnn maps the file and copies its tiles. The functional simulator
    computes on plain values, and gets exactly those that the tiles hold.
    """
    if kind() == "tt":
        return _current().ttnn.load_tensor(file, device=device)
    from kernels.tensorbin import map_tiles
    from kernels.tiles import from_tiles

    return put(from_tiles(map_tiles(file, shape, fmt), shape, fmt), fmt, device)


def get(tensor: Any) -> torch.Tensor:
    """A device tensor on the host, in float32."""
    return _current().ttnn.to_torch(tensor).float()
