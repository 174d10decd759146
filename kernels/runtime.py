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
from collections.abc import Callable
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
TRACE_REGION_BYTES = 256 << 20
"""Of a device's DRAM, for recorded launches."""


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
    import torch

    torch.set_num_threads(1)  # a product of tiles is too small to share: four times the work
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


_NAMES: dict[Format, str] = {
    "bf16": "bfloat16",
    "bfp8": "bfloat8_b",
    "bfp4": "bfloat4_b",
    "f32": "float32",
}


def dtype(fmt: Format) -> Any:
    """Ttnn's name of a number format."""
    return getattr(_current().ttnn, _NAMES[fmt])


def _format_of(native: Any) -> Format:
    return next(fmt for fmt in _NAMES if dtype(fmt) == native)


def like(fmt: Format) -> Any:
    """A likeness for a dataflow buffer in a format that none of the operation's tensors has."""
    if kind() == "tt":
        return Like(dtype(fmt))
    import torch

    return Like(dtype(fmt), layout=_current().ttnn.TILE_LAYOUT, underlying_dtype=torch.float32)


def open_device(device_id: int = 0) -> Any:
    """The accelerator; in the simulator a handle that means nothing."""
    if can_trace():
        return _current().ttnn.open_device(
            device_id=device_id, trace_region_size=TRACE_REGION_BYTES
        )
    return _current().ttnn.open_device(device_id=device_id)


def can_trace() -> bool:
    """Whether launches can be recorded: on a card. A simulated chip has slow dispatch only."""
    return kind() == "tt" and not os.environ.get("TT_METAL_SLOW_DISPATCH_MODE")


def record(device: Any, launch: Callable[[], Any]) -> tuple[Any, Any]:
    """Records what `launch` launches, without running it; nothing may be allocated meanwhile.

    Returns:
        The recording, and what `launch` returned.
    """
    real = _current().ttnn
    trace = real.begin_trace_capture(device, cq_id=0)
    try:
        result = launch()
    except BaseException:  # a queue that records takes nothing else
        real.end_trace_capture(device, trace, cq_id=0)
        release(device, trace)
        raise
    real.end_trace_capture(device, trace, cq_id=0)
    return trace, result


def replay(device: Any, trace: Any) -> None:
    """Launches again what was recorded, on the same addresses."""
    _current().ttnn.execute_trace(device, trace, cq_id=0, blocking=False)


def release(device: Any, trace: Any) -> None:
    """Forgets a recording."""
    _current().ttnn.release_trace(device, trace)


def close_device(device: Any) -> None:
    """Gives the accelerator back."""
    _current().ttnn.close_device(device)


def accelerator(board: str) -> str:
    """What runs the kernels, in words. A simulated chip tells itself by its variable."""
    if kind() == "sim":
        return f"functional simulator of a {board}"
    return f"simulated {board}" if os.environ.get("TT_METAL_SIMULATOR") else board


def mark(device: Any) -> Any:
    """A mark behind all that a device with fast dispatch was given so far."""
    return _current().ttnn.record_event(device, 0)


def wait_for(mark: Any) -> None:
    """Returns when the device has done all that lies before the mark."""
    _current().ttnn.event_synchronize(mark)


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


def zeros(rows: int, columns: int, fmt: Format, device: Any) -> Any:
    """A tensor of zeros in the device's DRAM, made there."""
    if kind() == "sim":
        import torch

        return put(torch.zeros(rows, columns), fmt, device)
    real = _current().ttnn
    return real.zeros((rows, columns), dtype=dtype(fmt), layout=real.TILE_LAYOUT, device=device)


def write(tensor: Any, values: torch.Tensor, fmt: Format) -> None:
    """Replaces what a device tensor of that format holds; it stays where it is."""
    real = _current().ttnn
    host = real.from_torch(values.contiguous(), dtype=dtype(fmt), layout=real.TILE_LAYOUT)
    if kind() == "sim":
        tensor._tensor.copy_(host._tensor)
    else:
        real.copy_host_to_device_tensor(host, tensor)


def copy_tile_rows(target: Any, source: Any, table: torch.Tensor, device: Any) -> None:
    """Copies whole tile rows, which TT-Lang cannot address by data.

    Args:
        target: [n · 32, D] bf16
        source: [m · 32, D] bf16
        table: int32 [m]: where in the target tile row i of the source goes; −1: nowhere.
        device: where the tensors are.
    """
    if kind() == "sim":
        for i, row in enumerate(int(entry) for entry in table):
            if row >= 0:
                rows = slice(row * TILE, (row + 1) * TILE)
                target._tensor[rows] = source._tensor[i * TILE : (i + 1) * TILE]
        return
    real = _current().ttnn
    width = target.shape[-1]
    where = real.from_torch(
        table.unsqueeze(0), dtype=real.int32, layout=real.ROW_MAJOR_LAYOUT, device=device
    )
    real.experimental.paged_fill_cache(
        real.reshape(target, (target.shape[0] // TILE, 1, TILE, width)),
        real.reshape(source, (1, 1, source.shape[0], width)),
        where,
        batch_idx=0,
    )


def get(tensor: Any) -> torch.Tensor:
    """A device tensor on the host, in float32."""
    return _current().ttnn.to_torch(tensor).float()
