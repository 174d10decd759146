"""TT-Lang's functional simulator, mended until it can be an oracle: the one place of its repairs.

Importing this module loads `ttl.sim` (package tt-lang-sim 1.1.1, or the one inside tt-lang 1.1.1)
and mends it; `ttl` and `ttnn` here are what kernels run on. The stock simulator

 1. rebinds torch.bfloat16 to float32 for the whole process, and leaves TTLANG_SIM_ONLY set;
 2. needs `sys.monitoring` (Python 3.12), to wait for copies that a kernel forgot to wait for;
 3. hides a kernel's error behind an ImportError of its own printing;
 4. deep-copies every tensor for every node (8 GB at K = 10240);
 5. forgets a tensor's number format when it is sliced, so bytes are miscounted;
 6. rounds nothing: neither tensors nor blocks, in bfloat16 or bfloat8_b, and has no bfloat4_b;
 7. lets a copy change the format and an expression mix formats, which the compiler refuses;
 8. reduces over tiles but not within them, and refuses to broadcast a 32-wide tile;
 9. refuses `block += a @ b` on a reserved block, `options=`, and has no `typecast`;
10. takes `-block`, `block ** 2`, `where`, `mask`, `clamp`, …, that the compiler lacks;
11. refuses to pop a block that a node with no work of its own waited for and did not use;
12. only warns of more L1 or buffers than a core has, and takes a buffer that nobody uses;
13. sends a block through a pipe by reference, so that its next use changes what arrives, and lets
    a core take a message that it already had, when others have yet to take theirs; and a multicast
    waits for nobody, where the compiler's waits until every receiver has asked for it.

tests/kernels/test_simulator.py shows each fault on the stock simulator and each repair on this one.
Beyond repairs: `counting()` accounts for every transfer. Knows nothing of any kernel.
"""

from __future__ import annotations

import contextlib
import dis
import importlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any, cast

import torch

from kernels.block_float import BFP4_BITS, BFP8_BITS, GROUP, round_to_block_float
from kernels.runtime import L1_BYTES, MAX_BUFFERS

# What the compiler has, of what the simulator offers. Its gelu is a table and so not here.
COMPILED_MATH = frozenset(
    [
        "abs",
        "broadcast",
        "ceil",
        "cos",
        "exp",
        "exp2",
        "expm1",
        "fill",
        "floor",
        "frac",
        "log",
        "max",
        "min",
        "neg",
        "recip",
        "reduce_max",
        "reduce_sum",
        "relu",
        "rsqrt",
        "sigmoid",
        "sign",
        "signbit",
        "silu",
        "sin",
        "sqrt",
        "square",
        "tan",
        "tanh",
        "transpose",
        "trunc",
        "typecast",
    ]
)


class UnsupportedByCompilerError(TypeError):
    """A construct that the stock simulator takes and the compiler doesn't."""


# --- 1, 2: loading without side effects -------------------------------------------------------


@contextlib.contextmanager
def _undisturbed() -> Generator[None]:
    """Restores what importing `ttl.sim` disturbs, and keeps the real ttnn out of it."""
    native = {name: getattr(torch, name) for name in ("bfloat16", "float16")}
    environment = os.environ.get("TTLANG_SIM_ONLY")
    os.environ["TTLANG_SIM_ONLY"] = "1"
    real_ttnn = sys.modules.get("ttnn")
    sys.modules["ttnn"] = cast(ModuleType, None)  # its import fails, so no real ttnn is wrapped
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:
        sys.monitoring = SimpleNamespace(OPTIMIZER_ID=5)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name, value in native.items():
            setattr(torch, name, value)
        if environment is None:
            del os.environ["TTLANG_SIM_ONLY"]
        else:
            os.environ["TTLANG_SIM_ONLY"] = environment
        if real_ttnn is None:
            del sys.modules["ttnn"]
        else:
            sys.modules["ttnn"] = real_ttnn
        if monitoring is None:
            del sys.monitoring  # type: ignore[attr-defined]


def _load() -> Callable[[str], Any]:
    with _undisturbed():
        importlib.import_module("ttl.sim")
        names = "blockstate context copyhandlers dfb greenlet_scheduler math operation program"
        found = {name: importlib.import_module(f"ttl.sim.{name}") for name in names.split()}
        found["ttnnsim"] = importlib.import_module("ttl.sim.ttnnsim")
        found["ttl.sim"] = importlib.import_module("ttl.sim")
    return found.__getitem__


_module = _load()
_context: Any = _module("context")
_dfb: Any = _module("dfb")
_handlers: Any = _module("copyhandlers")
_math: Any = _module("math")
_operation: Any = _module("operation")
_program: Any = _module("program")
_scheduler: Any = _module("greenlet_scheduler")
ttnn: Any = _module("ttnnsim")
ttl: Any = _module("ttl.sim").ttl
Block: Any = _dfb.Block
Tensor: Any = ttnn.Tensor


def _explicit_waits_only(injection_map: dict[Any, Any]) -> None:
    forgotten = sum(
        len(a.injection_points) + len(a.bare_copy_linenos) for a in injection_map.values()
    )
    if forgotten:
        raise UnsupportedByCompilerError(f"{forgotten} copies are not waited for: say .wait()")


def _clean_up() -> None:
    context = _context.get_context()
    context.scheduler = None
    context.current_thread_type = None
    context.thread_registry.clear()


def _analysed_once(analyse: Callable[[Any, set[int]], dict[Any, Any]]) -> Callable[..., Any]:
    """The stock simulator parses a kernel at each call, which takes most of a small one."""
    known: dict[Any, dict[Any, Any]] = {}

    def analysis(function: Any, _visited: set[int]) -> dict[Any, Any]:
        code = function.__code__
        if code not in known:
            known[code] = analyse(function, set())
        return known[code]

    return analysis


def _mend_waiting() -> None:
    _program.collect_reachable_analyses = _analysed_once(_program.collect_reachable_analyses)
    _program.install_copy_wait_hooks = _explicit_waits_only
    _operation.cleanup_run_context = _clean_up


# --- 3: errors --------------------------------------------------------------------------------


def _mend_errors() -> None:
    def raised_anyway(*_: Any) -> None:
        """The caller raises the same message next, with the kernel's line in its cause."""

    _program.print_diagnostic_error = raised_anyway
    _scheduler.print_diagnostic_error = raised_anyway


# --- 4, 5, 6: tensors -------------------------------------------------------------------------


_BFloat8: Any = ttnn._BFloat8BDtype


class _BFloat4(_BFloat8):
    """The format that the stock simulator lacks; its own checks take it for a bfloat8_b."""

    def size_in_bytes(self, n_elements: int) -> int:
        return n_elements // 2 + n_elements // GROUP

    def __repr__(self) -> str:
        return "bfloat4_b"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat4)

    def __hash__(self) -> int:
        return hash("bfloat4_b")


def _block_float_bits(dtype: Any) -> int | None:
    """Of a mantissa, if a ttnn format is a block float."""
    if dtype == ttnn.bfloat4_b:
        return BFP4_BITS
    return BFP8_BITS if dtype == ttnn.bfloat8_b else None


def rounded(values: torch.Tensor, dtype: Any) -> torch.Tensor:
    """`values` (float32) as a number format holds them, in float32."""
    bits = _block_float_bits(dtype)
    if bits is not None:
        return round_to_block_float(values, bits)
    if dtype in (torch.bfloat16, torch.float16):
        return values.to(dtype).float()
    return values


def _mend_tensors() -> None:
    ttnn.bfloat4_b = _BFloat4()
    ttnn._CUSTOM_DTYPE_BACKING[_BFloat4] = ttnn._CUSTOM_DTYPE_BACKING[_BFloat8]
    stock_slice: Callable[[Any, Any], Any] = Tensor.__getitem__
    stock_from_torch: Callable[..., Any] = ttnn.from_torch

    def as_is(self: Any, memo: dict[int, Any]) -> Any:
        memo[id(self)] = self
        return self

    def sliced(self: Any, key: Any) -> Any:
        part = stock_slice(self, key)
        part._dtype = self._dtype
        return part

    def from_torch(tensor: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        dtype = tensor.dtype if dtype is None else dtype
        values = tensor.float() if tensor.is_floating_point() else tensor
        values = rounded(values, dtype)
        values = values.clone() if values.data_ptr() == tensor.data_ptr() else values
        return stock_from_torch(values, dtype, *args, **kwargs)

    Tensor.__deepcopy__ = as_is
    Tensor.__getitem__ = sliced
    ttnn.from_torch = from_torch


# --- 6 to 11: blocks and expressions ---------------------------------------------------


def _result(values: torch.Tensor, shape: tuple[int, ...], dtype: Any, *sources: Any) -> Any:
    """A temporary block: its values in float32, its format that of the expression."""
    block = Block(
        tensor=Tensor(values, dtype=dtype),
        shape=shape,
        acquisition=_module("blockstate").BlockAcquisition.RESERVE,
        thread_type=_module("blockstate").ThreadType.COMPUTE,
        is_temporary=True,
    )
    _dfb.track_source_blocks(block, *sources)
    return block


def _values(block: Any) -> torch.Tensor:
    return block._buf.to_torch()


def _one_format(*blocks: Any) -> Any:
    formats = {str(block._buf.dtype): block._buf.dtype for block in blocks}
    if len(formats) > 1:
        raise UnsupportedByCompilerError(f"an expression mixes {', '.join(sorted(formats))}")
    return blocks[0]._buf.dtype


def _store(self: Any, value: Any) -> None:
    if self._shape != value._shape:
        raise ValueError(f"a block of {value._shape} tiles is stored into one of {self._shape}")
    _stock_store(self, value)
    _values(self).copy_(rounded(_values(self), self._buf.dtype))


def _accumulate(self: Any, value: Any) -> Any:
    """The packer adds to what L1 holds (a reserved block starts at zero), rounding each time."""
    if self._is_temporary:
        raise UnsupportedByCompilerError("+= wants a block from reserve()")
    total = rounded(_values(self), self._buf.dtype) + rounded(_values(value), self._buf.dtype)
    states: Any = _module("blockstate")
    if self._sm._access_state == states.AccessState.MR:  # what was added may be added to
        self._sm._access_state = states.AccessState.RW
        self._sm._expected_ops = self._sm._expected_ops | {states.ExpectedOp.STORE}
    _store(self, _result(total, value._shape, value._buf.dtype, value))
    return self


def _binary(self: Any, other: Any, op: Callable[[Any, Any], Any]) -> Any:
    if not isinstance(other, Block):
        raise UnsupportedByCompilerError(f"a block and {other!r} in one expression: use a tile")
    if self._shape != other._shape:
        raise ValueError(f"blocks of {self._shape} and {other._shape} tiles: broadcast one first")
    return _result(
        op(_values(self), _values(other)), self._shape, _one_format(self, other), self, other
    )


def _matmul(self: Any, other: Any) -> Any:
    (rows, inner), (inner_too, columns) = self._shape, other._shape
    if inner != inner_too:
        raise ValueError(f"matmul of {self._shape} and {other._shape} tiles")
    dtype = _one_format(self, other)
    return _result(_values(self) @ _values(other), (rows, columns), dtype, self, other)


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    return lambda block: _result(function(_values(block)), block._shape, block._buf.dtype, block)


def _pair(function: Callable[..., torch.Tensor]) -> Callable[[Any, Any], Any]:
    return lambda a, b: _binary(a, b, function)


def _sum(values: torch.Tensor, axes: list[int]) -> torch.Tensor:
    return values.sum(axes, keepdim=True)


def _largest(values: torch.Tensor, axes: list[int]) -> torch.Tensor:
    return values.amax(axes, keepdim=True)


def _reduce(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def reduce(block: Any, scaler: Any, *, dims: list[int]) -> Any:
        """Over rows or columns of the whole block; the result is row or column 0, the rest zero."""
        axes = sorted({d % 2 for d in dims})
        values = function(_values(block), axes) * _values(scaler)[0, 0]
        shape = tuple(1 if i in axes else n for i, n in enumerate(block._shape))
        out = torch.zeros(tuple(32 * n for n in shape))
        out[: values.shape[0], : values.shape[1]] = values
        return _result(out, shape, _one_format(block, scaler), block, scaler)

    return reduce


def _broadcast(block: Any, like: Any, *, dims: list[int]) -> Any:
    """Row or column 0 of each tile row or column, over all of `like`."""
    axes = {d % 2 for d in dims}
    values = _values(block)
    for axis in axes:
        if block._shape[axis] != 1:
            raise ValueError(f"broadcast along {axis} of a block of {block._shape} tiles")
        values = values.narrow(axis, 0, 1)
    shape = like._shape
    return _result(
        values.expand(32 * shape[0], 32 * shape[1]).contiguous(), shape, block._buf.dtype, block
    )


def _transpose(block: Any) -> Any:
    return _result(_values(block).T.contiguous(), block._shape[::-1], block._buf.dtype, block)


def _fill(like: Any, value: float) -> Any:
    return _result(torch.full_like(_values(like), value), like._shape, like._buf.dtype)


def _typecast(block: Any, dtype: Any) -> Any:
    if block._is_temporary:
        raise UnsupportedByCompilerError("typecast wants a block from wait(), alone in its store")
    return _result(rounded(_values(block), dtype), block._shape, dtype, block)


def _lacking(what: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UnsupportedByCompilerError(f"the compiler has no {what}")

    return refuse


_stock_store: Callable[[Any, Any], None] = Block.store


def _mend_unused_blocks() -> None:
    states: Any = _module("blockstate")
    machine: Any = states.BlockStateMachine
    stock_pop: Callable[..., None] = machine.transition_pop

    def pop(self: Any, pending_copy_location: Any = None) -> None:
        if self._access_state == states.AccessState.MR:
            self._expected_ops = self._expected_ops | {states.ExpectedOp.POP}
        stock_pop(self, pending_copy_location)

    machine.transition_pop = pop


def _mend_blocks() -> None:
    _mend_unused_blocks()
    Block.store = _store
    Block.__iadd__ = _accumulate
    Block._binary_op = _binary
    Block.__matmul__ = _matmul
    for name in ("__neg__", "__pow__", "__abs__", "__floordiv__", "__mod__", "__radd__"):
        setattr(Block, name, _lacking(f"{name} of blocks"))
    torch_names = {"recip": torch.reciprocal, "silu": torch.nn.functional.silu}
    mended: dict[str, Callable[..., Any]] = {
        name: _unary(torch_names.get(name) or getattr(torch, name))
        for name in COMPILED_MATH
        if name in torch_names or hasattr(torch, name)
    }
    mended |= {
        "max": _pair(torch.maximum),
        "min": _pair(torch.minimum),
        "reduce_sum": _reduce(_sum),
        "reduce_max": _reduce(_largest),
        "broadcast": _broadcast,
        "transpose": _transpose,
        "fill": _fill,
        "typecast": _typecast,
    }
    for name in {*dir(ttl.math), *mended}:
        if name[0].islower():
            setattr(ttl.math, name, mended.get(name) or _lacking(f"ttl.math.{name}"))


# --- 9, 12: operations ------------------------------------------------------------------------


def _mend_operations() -> None:
    stock = ttl.operation

    def operation(grid: Any, *, options: str | None = None, **kwargs: Any) -> Any:
        del options  # the compiler's
        return stock(grid, **kwargs)

    ttl.operation = operation
    stock_program: Callable[..., Any] = _program.Program

    def program(*functions: Any, grid: Any, pipenets: Any = None) -> Any:
        found = stock_program(*functions, grid=grid, pipenets=pipenets)
        stock_validate = found._validate_dataflow_buffers
        context = _context.get_context()

        def validate(cores: list[dict[str, Any]]) -> None:
            stock_validate(cores)
            buffers = {
                name
                for core in cores
                for name, value in core.items()
                if isinstance(value, _dfb.DataflowBuffer)
            }
            threads: list[Any] = [function.__wrapped__.__code__ for function in functions]
            unused = sorted(buffers - {name for code in threads for name in _reserved(code)})
            if unused:
                raise UnsupportedByCompilerError(f"unused dataflow buffers: {', '.join(unused)}")

        found._validate_dataflow_buffers = validate
        if context.kernel_l1_bytes > L1_BYTES:
            raise UnsupportedByCompilerError(
                f"dataflow buffers take {context.kernel_l1_bytes} bytes, a core has {L1_BYTES}"
            )
        if context.kernel_dfb_count > MAX_BUFFERS:
            raise UnsupportedByCompilerError(
                f"{context.kernel_dfb_count} dataflow buffers, a core has {MAX_BUFFERS}"
            )
        if _traffic is not None:
            _traffic.l1_bytes = max(_traffic.l1_bytes, context.kernel_l1_bytes)
            _traffic.launches += 1
            _traffic.nodes = max(_traffic.nodes, math.prod(grid))
        return found

    _program.Program = program


def _reserved(code: CodeType) -> set[str]:
    """Buffers that a thread's source reserves, be it in a loop that no node enters."""
    steps = itertools.pairwise(dis.get_instructions(code))
    found = {step.argval for step, then in steps if then.argval == "reserve"}
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return found.union(*(_reserved(function) for function in inner))


# --- The account of transfers -----------------------------------------------------------------


@dataclass
class Traffic:
    """What crossed between DRAM and the cores, by the operation's parameter names."""

    read_bytes: dict[str, int] = field(default_factory=dict[str, int])
    written_bytes: dict[str, int] = field(default_factory=dict[str, int])
    tiles_read: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes of the tiles read at least once: the least that had to cross."""
    tiles_written: dict[str, int] = field(default_factory=dict[str, int])
    readers: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    """Which nodes read each tensor."""
    working: set[int] = field(default_factory=set[int])
    """Nodes that read or wrote DRAM."""
    l1_bytes: int = 0
    nodes: int = 0
    launches: int = 0
    _seen: set[tuple[Any, ...]] = field(default_factory=set[tuple[Any, ...]], repr=False)

    def add(self, name: str, tiles: list[tuple[int, ...]], size: int, reads: bool) -> None:
        """Accounts for tiles of `size` bytes each, told by their places in the tensor."""
        total, least = (
            (self.read_bytes, self.tiles_read)
            if reads
            else (self.written_bytes, self.tiles_written)
        )
        fresh = {(name, reads, *tile) for tile in tiles} - self._seen
        self._seen |= fresh
        total[name] = total.get(name, 0) + len(tiles) * size
        least[name] = least.get(name, 0) + len(fresh) * size


_traffic: Traffic | None = None


@contextlib.contextmanager
def counting() -> Generator[Traffic]:
    """Accounts for the transfers of the operations that run inside."""
    global _traffic
    before, _traffic = _traffic, Traffic()
    try:
        yield _traffic
    finally:
        _traffic = before


def tile_bytes(dtype: Any) -> int:
    """Bytes of one 32 × 32 tile."""
    if _block_float_bits(dtype) is not None:
        return dtype.size_in_bytes(1024)
    return 1024 * torch.tensor([], dtype=dtype).element_size()


def _count(tensor: Any, reads: bool) -> None:
    if _traffic is None:
        return
    name: str = getattr(tensor, "_name", "?")
    shape: tuple[int, ...] = tuple(tensor.to_torch().shape)
    origin: tuple[int, ...] = getattr(tensor, "_element_origin", (0,) * len(shape))
    steps = (1,) * (len(shape) - 2) + (32, 32)
    places = [range(o, o + n, s) for o, n, s in zip(origin, shape, steps, strict=True)]
    _traffic.add(name, list(itertools.product(*places)), tile_bytes(tensor.dtype), reads)
    node: int = _greenlet()._sim_core
    _traffic.working.add(node)
    if reads:
        _traffic.readers.setdefault(name, set()).add(node)


def _greenlet() -> Any:
    return importlib.import_module("greenlet").getcurrent()


def _mend_copies() -> None:
    def same_format(a: Any, b: Any) -> None:
        if str(a.dtype) != str(b.dtype):
            raise UnsupportedByCompilerError(f"a copy from {a.dtype} to {b.dtype}")

    for types, reads in (((Tensor, Block), True), ((Block, Tensor), False)):
        handler: Any = _handlers.HANDLER_REGISTRY[types]
        stock_transfer: Callable[[Any, Any], None] = handler.transfer

        def transfer(
            source: Any, target: Any, stock: Any = stock_transfer, reads: bool = reads
        ) -> None:
            tensor, block = (source, target) if reads else (target, source)
            same_format(tensor, block.raw_tensor)
            _count(tensor, reads)
            stock(source, target)

        handler.transfer = transfer


def _mend_pipes() -> None:
    send: Any = _handlers.HANDLER_REGISTRY[(Block, _handlers.Pipe)]
    receive: Any = _handlers.HANDLER_REGISTRY[(_handlers.Pipe, Block)]
    stock_send: Callable[[Any, Any], None] = send.transfer
    receivers: dict[int, int] = {}

    def others(pipe: Any) -> int:
        """Receivers that a multicast waits for; a unicast waits for nobody."""
        axes: list[Any] = [a if isinstance(a, slice) else slice(a, a + 1) for a in pipe.dst]
        if not any(isinstance(a, slice) for a in pipe.dst):
            return 0
        inside = all(a.start <= at < a.stop for a, at in zip(axes, pipe.src, strict=True))
        return math.prod(a.stop - a.start for a in axes) - inside

    def can_send(source: Any, pipe: Any) -> bool:
        del source
        return _handlers._get_or_create_pipe_entry(pipe).get("ready", 0) >= others(pipe)

    def transfer(source: Any, pipe: Any) -> None:
        stock_send(source, pipe)
        entry = _handlers._get_or_create_pipe_entry(pipe)
        entry["ready"] = entry.get("ready", 0) - others(pipe)
        sent, *rest = entry["queue"].pop()
        entry["queue"].append((Tensor(sent.to_torch().clone(), dtype=sent.dtype), *rest))

    def validate(pipe: Any, block: Any) -> None:
        receivers[id(block)] = _greenlet()._sim_core  # the scheduler, which polls, is on no core
        if others(pipe) and ttl.node(dims=len(pipe.src)) != pipe.src:
            entry = _handlers._get_or_create_pipe_entry(pipe)
            entry["ready"] = entry.get("ready", 0) + 1

    def can_wait(pipe: Any, block: Any) -> bool:
        core, queue = receivers[id(block)], _handlers._get_or_create_pipe_entry(pipe)["queue"]
        return any(core not in taken for *_, taken in queue)

    send.can_wait, send.transfer = can_send, transfer
    receive.validate, receive.can_wait = validate, can_wait


_mend_waiting()
_mend_errors()
_mend_tensors()
_mend_blocks()
_mend_operations()
_mend_copies()
_mend_pipes()
