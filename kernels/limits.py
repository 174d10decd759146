"""What the kernels' configs refuse alike, in the same words: field, value, limit.

Knows tiles, a core's memory and number formats; knows no kernel.
"""

from __future__ import annotations

from kernels.runtime import L1_BYTES, TILE, Format

WEIGHTS: tuple[Format, ...] = ("bf16", "bfp8", "bfp4")
"""Formats that kernels read weights in. A block float is cast first: bf16 cannot meet it."""


def whole_tiles(name: str, size: int, whole: int = TILE) -> int:
    """Tiles of a size that must be a positive multiple of `whole`, itself a multiple of a tile.

    Raises:
        ValueError: it is not.
    """
    if size <= 0 or size % whole:
        raise ValueError(f"{name} = {size} is no multiple of {whole}")
    return size // TILE


def fits(name: str, value: int, l1_bytes: int, cure: str = "", limit: int = L1_BYTES) -> None:
    """Refuses the field whose value makes dataflow buffers too large for a core of `limit` bytes.

    Raises:
        ValueError: they are; with what to do, where there is a cure.
    """
    if l1_bytes > limit:
        message = f"{name} = {value} takes {l1_bytes} of {limit} B L1"
        raise ValueError(f"{message}: {cure}" if cure else message)


def weight_format(weights: Format) -> None:
    """Refuses a format that no kernel reads weights in.

    Raises:
        ValueError: it is neither bf16 nor a block float.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights = {weights!r}: only {', '.join(WEIGHTS)}")


def epsilon(eps: float) -> None:
    """Refuses a norm's epsilon that leaves a row of zeros infinite.

    Raises:
        ValueError: it is not above 0.
    """
    if not eps > 0:
        raise ValueError(f"eps = {eps} is not above 0: a row of zeros would be infinite")
