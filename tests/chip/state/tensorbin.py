"""What ttnn writes of matrices, and what it gets from files that `kernels.tensorbin` wrote.

    python -m tests.chip.state.tensorbin OUT.pt

Runs in .venv-tt. Only the host converts, but ttnn wants a card: a mock one serves; on a simulated
chip the tensors go through its DRAM.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from kernels import runtime
from kernels.runtime import Format
from kernels.tensorbin import SUFFIX, header
from kernels.tiles import to_tiles
from tests.chip.state.block_float import hard_values

FORMATS: tuple[Format, ...] = ("bf16", "bfp8", "bfp4", "f32")


def main(out: str) -> None:
    runtime.choose("tt")
    device = runtime.open_device()
    is_mock = not os.environ.get("TT_METAL_SIMULATOR")
    found: dict[str, dict[str, Any]] = {}
    for name, values in hard_values().items():
        for fmt in FORMATS:
            # Wider than high, so that shapes and the order of tiles show.
            matrix = values[:64].contiguous()
            host = runtime.ttnn.from_torch(
                matrix.bfloat16() if fmt == "bf16" else matrix,
                dtype=runtime.dtype(fmt),
                layout=runtime.ttnn.TILE_LAYOUT,
            )
            theirs, mine = Path(f"theirs{SUFFIX}"), Path(f"mine{SUFFIX}")
            runtime.ttnn.dump_tensor(theirs, host)
            shape = (matrix.shape[0], matrix.shape[1])
            mine.write_bytes(header(shape, fmt) + to_tiles(matrix, fmt).numpy().tobytes())
            loaded = runtime.load(mine, shape, fmt, device)
            put = runtime.put(matrix, fmt, device)
            # A mock card keeps nothing: there the tensor stays on the host.
            values_of = runtime.ttnn.load_tensor(mine) if is_mock else loaded
            found[f"{name} {fmt}"] = {
                "theirs": theirs.read_bytes(),
                "mine": mine.read_bytes(),
                "same spec": loaded.spec == put.spec and loaded.device() is not None,
                "values": runtime.get(values_of),
                "put": runtime.get(host),
            }
    runtime.close_device(device)
    torch.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1])
