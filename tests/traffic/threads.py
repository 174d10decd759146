"""Runs every thread of a kernel on every core of its grid with sizes in place of numbers.

In TT-Lang nothing that a thread does depends on a value: which tiles cross, in which order, by
which core, and which tiles are multiplied, follows from sizes and the core's place. So the kernel's
own threads, on the functional simulator's operations, nodes, pipe nets and checks, are run one
after the other; blocks are shapes, a copy from or to DRAM is accounted for, and nothing waits.
tests/traffic/test_threads.py holds this to the simulator's full account of every case.
Knows no kernel and no model.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from kernels import runtime, simulator
from kernels.runtime import Format
from kernels.simulator import tile_bytes

Tiles = tuple[int, int]


class Sized(simulator.Tensor):
    """A DRAM tensor without numbers, and which of its tiles crossed."""

    def __init__(self, rows: int, columns: int, fmt: Format) -> None:
        """Rows and columns are multiples of 32."""
        nothing = torch.zeros(1, 1).expand(rows, columns)
        super().__init__(nothing, runtime.ttnn.TILE_LAYOUT, dtype=runtime.dtype(fmt))
        self.tiles: Tiles = (rows // runtime.TILE, columns // runtime.TILE)
        self.fmt = fmt
        self.tile_bytes = tile_bytes(self.dtype)
        self.moved = {True: 0, False: 0}
        """Tiles read (True) and written, each time counted."""
        self.touched = {read: torch.zeros(self.tiles, dtype=torch.bool) for read in (True, False)}
        self.readers: set[int] = set()

    def __getitem__(self, key: Any) -> _Part:
        rows, columns = key
        part = _Part(self, rows.start, rows.stop, columns.start, columns.stop)
        inside = 0 <= part.top < part.bottom <= self.tiles[0]
        if not inside or not 0 <= part.left < part.right <= self.tiles[1]:
            raise IndexError(f"{key} is outside of {self.tiles} tiles")
        return part

    def __deepcopy__(self, memo: Any) -> Sized:
        return self

    def crossed(self, read: bool) -> int:
        """Bytes that crossed, each time counted."""
        return self.moved[read] * self.tile_bytes

    def least(self, read: bool) -> int:
        """Bytes of the tiles that crossed at least once."""
        return int(self.touched[read].sum()) * self.tile_bytes


@dataclass(frozen=True, slots=True)
class _Part:
    tensor: Sized
    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> Tiles:
        return self.bottom - self.top, self.right - self.left


@dataclass
class Launch:
    """One launch of an operation, all cores together."""

    nodes: int = 0
    l1_bytes: int = 0
    buffers: int = 0
    working: set[int] = field(default_factory=set[int])
    """Cores that moved anything to or from DRAM."""
    core_bytes: Counter[int] = field(default_factory=Counter[int])
    """By core."""
    work: dict[int, Counter[str]] = field(default_factory=dict[int, Counter[str]])
    """By core, what its compute thread does, in tiles by kind: "product" of two tiles, "store", and
    each elementwise operation by its name. "mul" is of two buffers' blocks, the matrix engine's;
    "mul after" of what the expression made before, the vector engine's; "add product" adds a
    product where it is summed, which is no work of its own."""


class _Block:
    """A block of a dataflow buffer, or what an expression makes: a shape and a format."""

    __slots__ = ("dtype", "is_product", "machine", "made", "shape", "size")

    def __init__(self, shape: Tiles, dtype: Any, machine: _Machine, made: bool = True) -> None:
        self.shape, self.dtype, self.machine = shape, dtype, machine
        self.size = math.prod(shape)
        self.is_product = False
        self.made: _Block = self if made else _Block(shape, dtype, machine)
        """What an expression makes of one like this."""

    def __enter__(self) -> _Block:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def store(self, value: _Block) -> None:
        if value.shape != self.shape:
            raise ValueError(f"a block of {value.shape} tiles is stored into one of {self.shape}")
        self.machine.work["store"] += self.size

    def _with(self, other: _Block, name: str) -> _Block:
        if other.shape != self.shape or other.dtype != self.dtype:
            raise ValueError(f"{name} of blocks {self.shape} and {other.shape}")
        if name == "add" and self.is_product != other.is_product:
            name = "add product"
        elif self.made is self or other.made is other:
            name = f"{name} after"
        self.machine.work[name] += self.size
        return self.made

    def __add__(self, other: _Block) -> _Block:
        return self._with(other, "add")

    def __sub__(self, other: _Block) -> _Block:
        return self._with(other, "sub")

    def __mul__(self, other: _Block) -> _Block:
        return self._with(other, "mul")

    def __iadd__(self, other: _Block) -> _Block:
        self.store(other)
        return self._with(other, "add")

    def __matmul__(self, other: _Block) -> _Block:
        (rows, inner), (inner_too, columns) = self.shape, other.shape
        if inner != inner_too:
            raise ValueError(f"matmul of {self.shape} and {other.shape} tiles")
        self.machine.work["product"] += rows * inner * columns
        product = _Block((rows, columns), self.dtype, self.machine)
        product.is_product = True
        return product


class _Buffer:
    """Stands for a dataflow buffer: always room, always full; a block holds nothing anyway."""

    def __init__(self, dfb: Any, machine: _Machine) -> None:
        self._block = _Block(tuple(dfb.shape), dfb.likeness_tensor.dtype, machine, made=False)

    def reserve(self) -> _Block:
        return self._block

    wait = reserve


class _Done:
    def wait(self) -> None:
        return None


_DONE = _Done()


class _Machine:
    """The cores of one launch, one after the other."""

    def __init__(self, grid: Sequence[int]) -> None:
        self.launch = Launch(nodes=math.prod(grid))
        self.core = 0
        self.work = Counter[str]()
        """Of the core that runs."""
        self._math = _Math(self)
        self.ttl = SimpleNamespace(
            copy=self.copy, math=self._math, node=simulator.ttl.node, Pipe=simulator.ttl.Pipe
        )

    def at(self, core: int) -> None:
        self.core = core
        self.work = self.launch.work.setdefault(core, Counter[str]())

    def copy(self, source: Any, target: Any) -> _Done:
        if isinstance(source, _Part):
            self._moved(source, target, read=True)
        elif isinstance(target, _Part):
            self._moved(target, source, read=False)
        return _DONE

    def _moved(self, part: _Part, block: _Block, read: bool) -> None:
        tensor, (rows, columns) = part.tensor, part.shape
        tiles = rows * columns
        if tiles != block.size:
            raise ValueError(f"a copy between {part.shape} tiles and a block of {block.shape}")
        if tensor.dtype is not block.dtype and str(tensor.dtype) != str(block.dtype):
            raise ValueError(f"a copy between {tensor.dtype} and a block of {block.dtype}")
        tensor.moved[read] += tiles
        tensor.touched[read][part.top : part.bottom, part.left : part.right] = True
        if read:
            tensor.readers.add(self.core)
        self.launch.working.add(self.core)
        self.launch.core_bytes[self.core] += tiles * tensor.tile_bytes


class _Math:
    """`ttl.math` on shapes."""

    def __init__(self, machine: _Machine) -> None:
        self._machine = machine

    def __getattr__(self, name: str) -> Callable[..., _Block]:
        if name not in simulator.COMPILED_MATH:
            raise AttributeError(f"the compiler has no ttl.math.{name}")
        special: Callable[..., _Block] | None = getattr(self, f"_{name}", None)
        found = special or self._plain(name)
        setattr(self, name, found)
        return found

    def _plain(self, name: str) -> Callable[..., _Block]:
        def operation(block: _Block, *_: Any) -> _Block:
            self._machine.work[name] += block.size
            return block.made

        return operation

    def _broadcast(self, block: _Block, like: _Block, *, dims: list[int]) -> _Block:
        del dims
        self._machine.work["broadcast"] += like.size
        return _Block(like.shape, block.dtype, self._machine)

    def _transpose(self, block: _Block) -> _Block:
        self._machine.work["transpose"] += block.size
        return _Block(block.shape[::-1], block.dtype, self._machine)

    def _typecast(self, block: _Block, dtype: Any) -> _Block:
        self._machine.work["typecast"] += block.size
        return _Block(block.shape, dtype, self._machine)

    def _reduce(self, block: _Block, scaler: _Block, *, dims: list[int]) -> _Block:
        del scaler
        self._machine.work["reduce"] += block.size
        axes = {d % 2 for d in dims}
        rows, columns = (1 if i in axes else n for i, n in enumerate(block.shape))
        return _Block((rows, columns), block.dtype, self._machine)

    _reduce_sum = _reduce_max = _reduce


@contextlib.contextmanager
def _instead(launches: list[Launch]) -> Generator[None]:
    """Programs of the simulator run on a `_Machine` inside."""
    module: Any = simulator._program
    checked = module.Program

    def program(*threads: Any, grid: Any, pipenets: Any = None) -> Callable[..., None]:
        checked(*threads, grid=grid, pipenets=pipenets)  # refuses too much L1, too many buffers
        machine = _Machine(grid)
        context: Any = simulator._context.get_context()
        machine.launch.l1_bytes = context.kernel_l1_bytes
        machine.launch.buffers = context.kernel_dfb_count
        launches.append(machine.launch)
        nodes = range(math.prod(grid))
        active = pipenets.active_node_set(tuple(grid)) if pipenets else nodes

        def run(*_: Any) -> None:
            for core in nodes if active is None else sorted(active):
                machine.at(core)
                for thread in threads:
                    _bound(thread, core, grid, machine)()

        return run

    module.Program = program
    try:
        yield
    finally:
        module.Program = checked


def _bound(thread: Any, core: int, grid: Any, machine: _Machine) -> Callable[[], None]:
    """A thread on a core, its buffers replaced."""
    function = thread.__wrapped__
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    buffers = {
        name: _Buffer(cell.cell_contents, machine)
        for name, cell in cells
        if isinstance(cell.cell_contents, simulator._dfb.DataflowBuffer)
    }
    return thread.bind({"_core": core, "grid": grid, "ttl": machine.ttl, **buffers})


def run(operation: Callable[..., None], operands: Sequence[Sized]) -> list[Launch]:
    """Calls an operation on sizes; what crossed is in the operands afterwards.

    Raises:
        UnsupportedByCompilerError: more L1 or buffers than a core has.
    """
    launches: list[Launch] = []
    with _instead(launches):
        operation(*operands)
    return launches


def most_work(*launches: Launch) -> dict[str, int]:
    """Tiles by kind of work, of the core that has the most of that kind."""
    most: Counter[str] = Counter()
    for launch in launches:
        for work in launch.work.values():
            most |= work
    return dict(sorted(most.items()))
