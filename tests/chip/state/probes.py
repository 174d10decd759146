"""Small kernels that show what the compiler makes of a construct: the program inside .venv-tt.

    python -m tests.chip.state.probes run ROWS.jsonl [PROBE…]

Each probe runs on what the environment names. One JSON row a probe: `wrong`, the share of elements
that are off by more than four bf16 roundings of their row's largest (a NaN is off), `roundings`,
`error` (what was raised). A probe may abort the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from kernels import runtime
from tests.chip.state.answering import Answer, answer_all
from tests.chip.state.probe import Probe, Torch, ask, load, source

LINE = lambda t: [torch.linspace(-8, 8, 1024).reshape(32, 32)]  # noqa: E731
D, EPS = 2560.0, 1e-6
WITHOUT_MAXIMIZE = ', options="--no-ttl-maximize-dst"'
PRODUCT_SHAPES = [(1, 2), (2, 2), (1, 2)]


def product_times_block(columns: int) -> Probe:
    shapes = [(1, 2), (2, columns), (1, columns)]
    return Probe("(a_ @ b_) * c_", shapes, (1, columns), lambda a, b, c: (a @ b) * c)


def fills(options: str = "") -> Probe:
    text = "a_ * ttl.math.fill(a_, 3.0) + ttl.math.fill(a_, 0.5)"
    return Probe(text, [(1, 2)], (1, 2), lambda a: a * 3 + 0.5, options=options)


def rsqrt(columns: int, options: str = "") -> Probe:
    text = f"ttl.math.rsqrt(a_ * ttl.math.fill(a_, {1 / D}) + ttl.math.fill(a_, {EPS}))"
    want = lambda a: (a / D + EPS).rsqrt()  # noqa: E731
    values = lambda t: [x.square() for x in t]  # noqa: E731
    return Probe(text, [(1, columns)], (1, columns), want, values=values, options=options)


BLOCKS = """
a_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 2), block_count=2)
b_dfb = ttl.make_dataflow_buffer_like(b, shape=(2, 2), block_count=2)
c_dfb = ttl.make_dataflow_buffer_like(b, shape=(2, 2), block_count=2)
"""
STREAMED = """
for k in range(3):
    with a_dfb.reserve() as blk:
        ttl.copy(a[0:1, 2 * k : 2 * k + 2], blk).wait()
    with b_dfb.reserve() as blk:
        ttl.copy(b[2 * k : 2 * k + 2, 0:2], blk).wait()
"""


def accumulation(compute: str, buffers: str = BLOCKS) -> Probe:
    shapes = [(1, 6), (6, 2)]
    return Probe(compute, shapes, (1, 2), lambda a, b: a @ b, buffers=buffers, read=STREAMED)


ALONE = """
with y_dfb.reserve() as y_:
    for k in range(3):
        with a_dfb.wait() as a_, b_dfb.wait() as b_:
            y_ += a_ @ b_
"""
BESIDE = """
with y_dfb.reserve() as y_:
    for k in range(3):
        with b_dfb.wait() as b_, c_dfb.reserve() as c_:
            c_.store(b_)
        with a_dfb.wait() as a_, c_dfb.wait() as c_:
            y_ += a_ @ c_
"""


def counted(start: str, step: str) -> Probe:
    """Tile 0 minus tile 1, which the reader counts by hand."""
    return Probe(
        """
        for _ in range(2):
            with a_dfb.wait() as a_, b_dfb.reserve() as b_:
                b_.store(a_)
        with b_dfb.wait() as b_, c_dfb.reserve() as c_:
            c_.store(b_)
        with b_dfb.wait() as b_, c_dfb.wait() as c_, y_dfb.reserve() as y_:
            y_.store(c_ - b_)
        """,
        [(1, 2)],
        (1, 1),
        lambda a: a[:, :32] - a[:, 32:],
        buffers="""
        a_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        b_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        c_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)
        """,
        read=f"""
        {start}
        for _ in range(2):
            with a_dfb.reserve() as blk:
                ttl.copy(a[0:1, n + 0 : n + 1], blk).wait()
            {step}
        """,
    )


def pair(text: str, formats: Sequence[runtime.Format], want: Torch) -> Probe:
    return Probe(text, [(1, 2), (2, 2)], (1, 2), want, formats)


def unary(text: str, want: Torch, y: runtime.Format = "bf16") -> Probe:
    return Probe(text, [(1, 1)], (1, 1), want, [y], y, values=LINE)


def stale(device: Any) -> Answer:
    """An int keyword chooses the tile; called with 0, then with 1."""
    text = source(Probe("a_", [(1, 2)], (1, 1), lambda a: a))
    text = text.replace("y: ttnn.Tensor)", "y: ttnn.Tensor, first: int = 0)")
    text = text.replace("like(a, shape=(1, 2)", "like(a, shape=(1, 1)")
    text = text.replace("a[0:1, 0:2]", "a[0:1, first : first + 1]")
    op = load(text).make()
    a = torch.cat([torch.zeros(32, 32), torch.ones(32, 32)], 1)
    tensor = runtime.put(a, "bf16", device)
    got: list[float] = []
    for first in (0, 1):
        y = runtime.put(torch.full((32, 32), 77.0), "bf16", device)
        op(tensor, y, first=first)
        got.append(runtime.get(y)[0, 0].item())
    return {"got": got}


def slice_extent(device: Any) -> Answer:
    """A block of two tiles is filled from a slice of one."""
    text = source(Probe("a_", [(1, 2)], (1, 2), lambda a: a)).replace("a[0:1, 0:2]", "a[0:1, 0:1]")
    y = runtime.put(torch.full((32, 64), 77.0), "bf16", device)
    a = torch.cat([torch.full((32, 32), 1.0), torch.full((32, 32), 2.0)], 1)
    load(text).make()(runtime.put(a, "bf16", device), y)
    return {"got": runtime.get(y)[0, ::32].tolist()}


def integers(device: Any) -> Answer:
    """A copy of a uint32 tensor."""
    ttnn = runtime.ttnn
    text = source(Probe("a_", [(1, 1)], (1, 1), lambda a: a))

    def put(value: int) -> Any:
        tensor = torch.full((32, 32), value, dtype=torch.int32)
        return ttnn.from_torch(tensor, dtype=ttnn.uint32, layout=ttnn.TILE_LAYOUT, device=device)

    y = put(77)
    load(text).make()(put(5), y)
    return {"got": [ttnn.to_torch(y)[0, 0].item()]}


def row_major(device: Any) -> Answer:
    """A copy of a tensor that is not tiled."""
    ttnn = runtime.ttnn
    a = torch.full((32, 32), 5.0)
    tensor = ttnn.from_torch(a, dtype=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT, device=device)
    y = runtime.put(torch.full((32, 32), 77.0), "bf16", device)
    load(source(Probe("a_", [(1, 1)], (1, 1), lambda a: a))).make()(tensor, y)
    return {"got": [runtime.get(y)[0, 0].item()]}


TYPECAST = "ttl.math.typecast({}, ttnn.{})".format
TO_F32 = Probe(TYPECAST("a_", "float32"), [(1, 2)], (1, 2), lambda a: a, ["bf16"], "f32")
TO_BF16 = Probe(TYPECAST("a_", "bfloat16"), [(1, 2)], (1, 2), lambda a: a, ["f32"])
PRODUCT = lambda a, b: a @ b  # noqa: E731

PROBES: dict[str, Probe | Callable[[Any], Answer]] = {
    "product-times-block-one-tile": product_times_block(1),
    "product-times-block-two-tiles": product_times_block(2),
    "two-fills": fills(),
    "two-fills-without-maximize-dst": fills(WITHOUT_MAXIMIZE),
    "rsqrt-fill-one-tile": rsqrt(1),
    "rsqrt-fill-two-tiles": rsqrt(2),
    "rsqrt-fill-without-maximize-dst": rsqrt(2, WITHOUT_MAXIMIZE),
    "rsqrt-tiles-as-data": Probe(
        "ttl.math.rsqrt(a_ * b_ + c_)",
        [(1, 2)] * 3,
        (1, 2),
        lambda a, b, c: (a * b + c).rsqrt(),
        values=lambda t: [t[0].square(), t[1] * 0 + 1 / D, t[2] * 0 + EPS],
    ),
    "accumulate-alone": accumulation(ALONE, BLOCKS.replace("c_dfb", "# c_dfb")),
    "accumulate-beside-a-store": accumulation(BESIDE),
    "accumulate-twice-without-a-loop": Probe(
        """
        with a_dfb.wait() as a_, b_dfb.wait() as b_, y_dfb.reserve() as y_:
            y_ += a_ @ b_
            y_ += a_ @ b_
        """,
        [(1, 2), (2, 2)],
        (1, 2),
        lambda a, b: 2 * (a @ b),
    ),
    "counter-reassigned": counted("n = 0", "n = n + 1"),
    "counter-increased": counted("n: int = 0", "n += 1"),
    "stale-keyword": stale,
    "slice-extent": slice_extent,
    "uint32": integers,
    "row-major": row_major,
    "typecast-to-f32": TO_F32,
    "typecast-to-bf16": TO_BF16,
    "chain-of-six": Probe(
        "a_ + b_ + c_ + a_ + b_ + c_",
        [(1, 2)] * 3,
        (1, 2),
        lambda a, b, c: 2 * (a + b + c),
    ),
    "sum-of-two": Probe("a_ + b_", [(1, 2)] * 2, (1, 2), lambda a, b: a + b),
    "bf16-product-in-f32": Probe("a_ @ b_", [(1, 2), (2, 2)], (1, 2), PRODUCT, y_format="f32"),
    "typecast-to-its-own": unary(TYPECAST("a_", "bfloat16"), lambda a: a),
    "typecast-of-a-product": Probe(
        TYPECAST("a_ @ b_", "float32"), [(1, 2), (2, 2)], (1, 2), PRODUCT, y_format="f32"
    ),
    "bf16-times-bfp8": pair("a_ @ b_", ["bf16", "bfp8"], PRODUCT),
    "bf16-plus-f32": Probe("a_ + b_", [(1, 1)] * 2, (1, 1), lambda a, b: a + b, ["bf16", "f32"]),
    "f32-stored-as-bf16": Probe("a_", [(1, 1)], (1, 1), lambda a: a, ["f32"]),
    "two-products": pair("a_ @ b_ + a_ @ b_", ["bf16", "bf16"], lambda a, b: 2 * (a @ b)),
    "negated": unary("-a_", lambda a: -a),
    "squared": unary("a_ ** 2", lambda a: a**2),
    "halved": unary("a_ * 0.5", lambda a: a / 2),
    "where": unary("ttl.math.where(a_, a_, a_)", lambda a: a),
    "mask": unary("ttl.math.mask(a_, a_)", lambda a: a),
    "clamp": unary("ttl.math.clamp(a_, 0.0, 1.0)", lambda a: a.clamp(0, 1)),
    "gelu": unary("ttl.math.gelu(a_)", torch.nn.functional.gelu, "f32"),
    "recip": Probe(
        "ttl.math.recip(a_)",
        [(1, 1)],
        (1, 1),
        torch.reciprocal,
        ["f32"],
        "f32",
        values=lambda t: [1 + t[0].abs()],
    ),
    "product-subtracted": Probe("c_ - a_ @ b_", PRODUCT_SHAPES, (1, 2), lambda a, b, c: c - a @ b),
    "product-added": Probe("c_ + a_ @ b_", PRODUCT_SHAPES, (1, 2), lambda a, b, c: c + a @ b),
    "chain-of-six-in-32-bit-dst": Probe(
        "a_ + b_ + c_ + a_ + b_ + c_",
        [(1, 2)] * 3,
        (1, 2),
        lambda a, b, c: 2 * (a + b + c),
        options=", fp32_dest_acc_en=True",
    ),
    "reduce-max": Probe(
        "ttl.math.reduce_max(a_, b_, dims=[1])",
        [(1, 2), (1, 1)],
        (1, 1),
        lambda a, b: torch.nn.functional.pad(a.amax(1, keepdim=True), (0, 31)),
        columns=1,
        values=lambda t: [t[0], t[1] * 0 + 1],
    ),
    "reduce-sum": Probe(
        "ttl.math.reduce_sum(a_, b_, dims=[1])",
        [(1, 2), (1, 1)],
        (1, 1),
        lambda a, b: torch.nn.functional.pad(a.sum(1, keepdim=True), (0, 31)),
        columns=1,
        values=lambda t: [t[0].abs(), t[1] * 0 + 1],
    ),
    "unused-buffer": Probe(
        "a_",
        [(1, 1)],
        (1, 1),
        lambda a: a,
        buffers="z_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1), block_count=2)",
    ),
}


if __name__ == "__main__":
    answer_all({name: partial(ask, probe) for name, probe in PROBES.items()})
