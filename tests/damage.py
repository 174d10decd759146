"""Spoils a checkpoint that a test wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file


def put_values(model_dir: Path, name: str, values: Sequence[float]) -> None:
    """Replaces a tensor's last values; its name without prefix, its checkpoint in one file."""
    file = model_dir / "model.safetensors"
    tensors = load_file(file)
    (stored,) = (x for x in tensors if x.endswith(f".{name}"))
    flat = tensors[stored].flatten()
    for place, value in enumerate(values, 1):
        flat[-place] = value
    tensors[stored] = flat.view(tensors[stored].shape)
    save_file(tensors, file, metadata={"format": "pt"})
