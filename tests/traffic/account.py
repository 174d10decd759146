"""Bytes, launches and cores of a decode step, over the least that it could take.

Counted: every launch that the decoder makes (`decoder.py`), every tile that its threads move
(`threads.py`), what the host writes and reads, and the copies of completed tile rows. The least is
from the model alone: every weight matrix once in its format, every norm once, the keys and values
that each layer's queries see once, the newest ones written, and activations written once and read
once in the tile rows that they lie in. Bare, without those: what the rows in use bring and take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.tt_plan import FORMATS, Precision, matrices
from kernels.runtime import TILE, Format
from tests.traffic import threads
from tests.traffic.decoder import Call, Step

BF16, F32 = 2, 4
"""Bytes a value."""


@dataclass(frozen=True)
class Operand:
    """What one launch moves of one operand."""

    read_bytes: int
    written_bytes: int
    readers: int
    """Cores that read it."""


@dataclass(frozen=True)
class Counted:
    """One launch, counted."""

    operands: tuple[Operand, ...]
    nodes: int
    working: int
    """Cores that move anything to or from DRAM."""
    l1_bytes: int
    most_work: Mapping[str, int]
    """Tiles by kind, of the core that has the most of each kind."""

    @property
    def num_bytes(self) -> int:
        """Read and written."""
        return sum(x.read_bytes + x.written_bytes for x in self.operands)


def count(call: Call) -> Counted:
    """Counts a launch; each kernel, config and shapes of operands only once a process."""
    shapes = tuple((*x.shape, x.fmt) for x in call.operands)
    return _count(call.factory, call.config, shapes)


@cache
def _count(factory: Any, config: Any, shapes: tuple[tuple[int, int, Format], ...]) -> Counted:
    sized = [threads.Sized(*shape) for shape in shapes]
    (launch,) = threads.run(factory(config), sized)
    return Counted(
        operands=tuple(Operand(x.crossed(True), x.crossed(False), len(x.readers)) for x in sized),
        nodes=launch.nodes,
        working=len(launch.working),
        l1_bytes=launch.l1_bytes,
        most_work=threads.most_work(launch),
    )


@dataclass(frozen=True)
class Least:
    """The least bytes of a step."""

    weights: int
    norms: int
    kv: int
    """Read and written."""
    activations: int
    """Inputs and outputs among them; whole tile rows, written and read."""
    inputs_outputs: int
    """Embeddings, per-layer inputs and logits of the rows in use, once."""

    @property
    def total(self) -> int:
        """With activations."""
        return self.weights + self.norms + self.kv + self.activations

    @property
    def bare(self) -> int:
        """Without those that the device hands to itself, and without the rows not in use."""
        return self.weights + self.norms + self.kv + self.inputs_outputs


def least(config: ModelConfig, precision: Precision, batch: int, context: int) -> Least:
    """From the model, not from what runs."""
    formats = FORMATS[precision]
    d, layers = config.hidden_size, config.layers
    weights = sum(x.num_bytes(formats[x.group]) for x in matrices(config) if not x.on_host)
    norms = d * BF16
    kv = 0
    for layer in layers:
        norms += (5 if config.per_layer_input_size else 4) * d * BF16
        norms += layer.head_dim * F32 * (2 if layer.owns_kv else 1)
        seen = context if layer.window is None else min(context, layer.window)
        a_position = 2 * layer.num_kv_heads * layer.head_dim * BF16
        kv += batch * a_position * (seen - 1 if layer.owns_kv else seen)  # its own is at hand
        kv += batch * a_position if layer.owns_kv else 0
    row = d + config.per_layer_input_size * len(layers) + config.vocab_size
    inside = sum(map(_activations, layers)) + (4 * d + config.per_layer_input_size) * len(layers)
    tile_rows = -(-batch // TILE) * TILE
    activations = 2 * tile_rows * (row + inside) * BF16
    return Least(weights, norms, kv, activations, batch * row * BF16)


def _activations(layer: LayerConfig) -> int:
    """Values a row that differ by layer: queries, what they attended to, GeGLU's product.

    Besides, the same in each: attention's output, the residual stream after it, the feed-forward's
    output, the stream after that, and the gated per-layer input.
    """
    return 2 * layer.num_heads * layer.head_dim + layer.intermediate_size


@dataclass(frozen=True)
class Account:
    """One decode step."""

    least: Least
    weight_bytes: int
    """Read of weight matrices."""
    launch_bytes: int
    """Read and written by all launches."""
    move_bytes: float
    """Copies of completed tile rows, a step's share."""
    moves: float
    """Launches of them, a step's share."""
    host_bytes: int
    """Written and read by the host."""
    launches: int
    launches_per_layer: int
    """The most in a layer."""
    min_cores: int
    """The fewest cores that read a weight matrix, in any launch that reads one."""
    l1_bytes: int
    """The most that a launch's buffers take of a core."""

    @property
    def step_bytes(self) -> float:
        """All that crosses to and from the DRAM."""
        return self.launch_bytes + self.move_bytes + self.host_bytes

    @property
    def weight_read_ratio(self) -> float:
        """Weights read, over each once."""
        return self.weight_bytes / self.least.weights

    @property
    def step_ratio(self) -> float:
        """All bytes over the least."""
        return self.step_bytes / self.least.total

    @property
    def bare_ratio(self) -> float:
        """All bytes over the least without activations."""
        return self.step_bytes / self.least.bare


def account(
    config: ModelConfig, precision: Precision, batch: int, context: int, step: Step
) -> Account:
    """Adds up a recorded step."""
    weight_bytes, min_cores, of_layer = 0, 1 << 30, Counter[int]()
    for call in step.calls:
        for handle, operand in zip(call.operands, count(call).operands, strict=True):
            if handle.role == "weights" and operand.read_bytes:
                weight_bytes += operand.read_bytes
                min_cores = min(min_cores, operand.readers)
        if call.layer is not None:
            of_layer[call.layer] += 1
    return Account(
        least=least(config, precision, batch, context),
        weight_bytes=weight_bytes,
        launch_bytes=sum(count(call).num_bytes for call in step.calls),
        move_bytes=_moved(step, batch),
        moves=len(step.moves) * moving_share(batch),
        host_bytes=round(
            step.uploaded_bytes + step.changed_bytes * moving_share(batch) + step.downloaded_bytes
        ),
        launches=len(step.calls),
        launches_per_layer=max(of_layer.values()),
        min_cores=min_cores,
        l1_bytes=max(count(call).l1_bytes for call in step.calls),
    )


def moving_share(batch: int) -> float:
    """In how many of the steps some slot's tile row became complete; slots are out of step."""
    return 1 - (1 - 1 / TILE) ** batch


def _moved(step: Step, batch: int) -> float:
    """Bytes a step: sources are read whole in every copying step, a slot's rows written 1 in 32."""
    read = sum(move.read_bytes for move in step.moves)
    written = sum(move.written_bytes for move in step.moves)
    return read * moving_share(batch) + written / TILE
