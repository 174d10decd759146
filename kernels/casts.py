"""Casts that do nothing: TT-Lang's compiler refuses a cast to the format that a block has already.

A kernel whose operand comes in several formats must therefore be written once for each, or cast
always: a compute thread can neither choose while it is compiled nor call anything. The functional
simulator lets such a cast pass; `let_them_pass` teaches the compiler the same.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from kernels import runtime


def let_them_pass() -> None:
    """From now on `ttl.math.typecast` to a block's own format is that block."""
    if runtime.kind() != "sim":
        _teach_the_compiler()


@cache
def _teach_the_compiler() -> None:
    operators: Any = importlib.import_module("ttl.operators")
    math: Any = importlib.import_module("ttl.ttl_math")
    ttcore: Any = importlib.import_module("ttl.dialects.ttcore")
    format_of: Any = importlib.import_module("ttl.dtype_utils").tensor_dtype_to_ttcore_datatype
    syntax: Any = importlib.import_module("ttl._src.ttl_ast").syntax
    cast = operators.typecast

    def typecast(block: Any, dtype: Any) -> Any:
        held = ttcore.ir.TileType.maybe_downcast(block.type.element_type)
        if held is not None and ttcore.DataType(held.data_type_as_int) == format_of(dtype):
            return block
        return cast(block, dtype)

    syntax("typecast")(typecast)
    operators.typecast = math.typecast = typecast
