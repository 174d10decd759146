"""What the kernels use of ttnn 0.69, for the type checker; the real package carries no types."""

from typing import Any

class Tensor:
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, tiles: tuple[slice, slice]) -> Tensor: ...

bfloat16: Any
bfloat8_b: Any
bfloat4_b: Any
float32: Any
