"""Each fault of the stock simulator, shown in a process of its own, and mended here."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from kernels import runtime, simulator
from kernels.block_float import BFP4_BITS, BFP8_BITS, round_to_block_float
from kernels.runtime import Format, ttl, ttnn

ROOT = Path(__file__).resolve().parents[2]
STOCK = """
import sys, types
if not hasattr(sys, "monitoring"):
    sys.monitoring = types.SimpleNamespace(OPTIMIZER_ID=5, get_tool=lambda _: None)
import torch
native = torch.bfloat16
from ttl.sim import ttl, ttnn

def put(t, dtype=ttnn.bfloat16):
    return ttnn.from_torch(t, dtype=dtype, layout=ttnn.TILE_LAYOUT)
"""


def stock(tmp_path: Path, script: str) -> str:
    """What a script prints on the stock simulator; its error, if it ends in one."""
    file = tmp_path / "stock.py"
    file.write_text(STOCK + textwrap.dedent(script))
    env = {k: v for k, v in os.environ.items() if k != "TTLANG_SIM_ONLY"}
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, env=env)
    return done.stdout if done.returncode == 0 else done.stderr


STOCK_KERNEL = """
@ttl.operation(grid=(1, 1){options})
def op(a: ttnn.Tensor, b: ttnn.Tensor, y: ttnn.Tensor) -> None:
    a_dfb = ttl.make_dataflow_buffer_like(a, shape={a}, block_count=2)
    b_dfb = ttl.make_dataflow_buffer_like(b, shape={b}, block_count=2)
    y_dfb = ttl.make_dataflow_buffer_like(y, shape={y}, block_count=2)

    @ttl.datamovement()
    def read():
        with a_dfb.reserve() as blk:
            ttl.copy(a[0 : {a}[0], 0 : {a}[1]], blk).wait()
        with b_dfb.reserve() as blk:
            ttl.copy(b[0 : {b}[0], 0 : {b}[1]], blk).wait()

    @ttl.compute()
    def compute():
        with a_dfb.wait() as a_, b_dfb.wait() as b_, y_dfb.reserve() as y_:
            {compute}

    @ttl.datamovement()
    def write():
        with y_dfb.wait() as blk:
            ttl.copy(blk, y[0 : {y}[0], 0 : {y}[1]]).wait()

torch.manual_seed(0)
operands = [torch.randn(32 * r, 32 * c) for r, c in ({a}, {b})]
out = put(torch.zeros(32 * {y}[0], 32 * {y}[1]))
op(*(put(t) for t in operands), out)
got = ttnn.to_torch(out)
"""


def kernel(compute: str, a=(1, 1), b=(1, 1), y=(1, 1), options: str = "") -> str:
    return STOCK_KERNEL.format(compute=compute, a=a, b=b, y=y, options=options)


def mended(script: str) -> dict[str, torch.Tensor]:
    """The same script on the mended simulator: its operands and what it got."""
    names: dict[str, object] = {
        "ttl": ttl,
        "ttnn": ttnn,
        "torch": torch,
        "put": lambda t: runtime.put(t, "bf16", None),
    }
    exec(compile_with_source(script), names)
    return {"got": names["got"], "operands": names["operands"]}  # type: ignore[dict-item]


def compile_with_source(script: str):
    import linecache

    name = f"<kernel {hash(script):x}>"
    linecache.cache[name] = (len(script), None, script.splitlines(keepends=True), name)
    return compile(script, name, "exec")


def test_torch_keeps_its_own_bfloat16(tmp_path: Path) -> None:
    assert "False" in stock(tmp_path, "print(torch.bfloat16 is native)")
    assert torch.zeros(1).bfloat16().dtype is torch.bfloat16
    assert str(torch.bfloat16) == "torch.bfloat16"
    assert "TTLANG_SIM_ONLY" not in os.environ


def stock_refuses(tmp_path: Path, script: str) -> bool:
    return "Traceback" in stock(tmp_path, script)


def test_it_loads_without_sys_monitoring_and_leaves_none_behind(tmp_path: Path) -> None:
    found = stock(
        tmp_path, "del sys.monitoring; from ttl.sim.context import cleanup_run_context as c; c()"
    )
    assert "monitoring" in found
    assert hasattr(sys, "monitoring") == (sys.version_info >= (3, 12))


def test_an_error_in_a_kernel_reaches_the_caller(tmp_path: Path) -> None:
    wrong = kernel("y_.store(a_ @ b_)", a=(1, 2), b=(1, 1))
    assert "core0-compute" not in stock(tmp_path, wrong)  # hidden behind an error of its printing
    with pytest.raises(RuntimeError, match="core0-compute: ValueError: matmul of"):
        mended(wrong)


def test_tensors_are_not_copied_for_every_node(tmp_path: Path) -> None:
    script = "import copy\nt = put(torch.zeros(32, 32))\nprint(copy.deepcopy(t) is t)"
    assert "False" in stock(tmp_path, script)
    import copy

    tensor = runtime.put(torch.zeros(32, 32), "bf16", None)
    assert copy.deepcopy(tensor) is tensor


def test_a_slice_keeps_its_number_format(tmp_path: Path) -> None:
    script = "print(put(torch.zeros(32, 64))[0:1, 0:1].dtype)"
    assert "float32" in stock(tmp_path, script)
    assert runtime.put(torch.zeros(32, 64), "bf16", None)[0:1, 0:1].dtype == ttnn.bfloat16


@pytest.mark.parametrize("fmt", ["bf16", "bfp8"])
def test_tensors_are_rounded_to_their_format(tmp_path: Path, fmt: Format) -> None:
    third = "print((ttnn.to_torch(put(torch.full((32, 32), 1 / 3))) == torch.tensor(1 / 3)).all())"
    assert "True" in stock(tmp_path, third)
    got = runtime.get(runtime.put(torch.full((32, 32), 1 / 3), fmt, None))
    assert not torch.any(got == 1 / 3)
    assert torch.allclose(got, torch.full((32, 32), 1 / 3), rtol=2**-7)


def test_it_has_a_bfloat4_of_its_own(tmp_path: Path) -> None:
    assert "False" in stock(tmp_path, "print(hasattr(ttnn, 'bfloat4_b'))")
    assert ttnn.bfloat4_b != ttnn.bfloat8_b
    assert ttnn.bfloat8_b != ttnn.bfloat4_b
    tensor = runtime.put(torch.full((32, 32), 1 / 3), "bfp4", None)
    assert tensor.dtype == ttnn.bfloat4_b
    assert torch.equal(runtime.get(tensor), torch.full((32, 32), 5 / 16))


@pytest.mark.parametrize(("fmt", "size"), runtime.TILE_BYTES.items())
def test_a_tile_has_its_formats_bytes(fmt: Format, size: int) -> None:
    tensor = runtime.put(torch.zeros(32, 32), fmt, None)
    assert simulator.tile_bytes(tensor.dtype) == tensor.size_in_bytes(1024) == size
    assert runtime.like(fmt).size_in_bytes(1024) == size


def test_bfloat8_shares_an_exponent_among_sixteen() -> None:
    values = torch.zeros(1, 32)
    values[0, 0], values[0, 1], values[0, 16] = 64.0, 0.4, 0.4
    got = round_to_block_float(values, BFP8_BITS)
    assert got[0, 0] == 64.0
    assert got[0, 1] == 0.0  # less than half a step of 1
    assert abs(got[0, 16] - 0.4) < 0.004


def test_a_tie_goes_to_the_even_neighbour() -> None:
    values = torch.zeros(1, 16)
    values[0, :4] = torch.tensor([64.0, 2.5, 3.5, -2.5])
    assert round_to_block_float(values, BFP8_BITS)[0, :4].tolist() == [64.0, 2.0, 4.0, -2.0]
    values[0, :4] = torch.tensor([4.0, 0.5, 1.5, -2.5])
    assert round_to_block_float(values, BFP4_BITS)[0, :4].tolist() == [4.0, 0.0, 2.0, -2.0]


def test_blocks_are_rounded_when_stored(tmp_path: Path) -> None:
    script = kernel("y_.store(a_ + b_)")
    report = "\nprint((got == got.to(native).float()).all())"
    assert "False" in stock(tmp_path, script + report)
    got = mended(script)["got"]
    assert torch.equal(got, got.bfloat16().float())


def test_formats_do_not_mix() -> None:
    script = kernel("y_.store(a_ + b_)").replace(
        "op(*(put(t) for t in operands), out)",
        "op(put(operands[0]), ttnn.from_torch(operands[1], dtype=ttnn.float32), out)",
    )
    with pytest.raises(RuntimeError, match="mixes"):
        mended(script)


def test_a_reduction_reaches_into_the_tiles(tmp_path: Path) -> None:
    script = kernel("y_.store(ttl.math.reduce_sum(a_, b_, dims=[1]))", a=(1, 3)).replace(
        "operands = [", "operands = [torch.ones(32, 96), torch.ones(32, 32)]\n_ = ["
    )
    assert "96.0" not in stock(tmp_path, script + "\nprint(got[0, 0].item())")
    assert torch.equal(mended(script)["got"][:, 0], torch.full((32,), 96.0))


def test_a_tile_is_broadcast_from_its_first_column(tmp_path: Path) -> None:
    script = kernel("y_.store(ttl.math.broadcast(a_, y_, dims=[1]) * b_)", b=(1, 2), y=(1, 2))
    assert stock_refuses(tmp_path, script)
    found = mended(script)
    a, b = (t.bfloat16().float() for t in found["operands"])
    assert torch.equal(found["got"], (a[:, :1] * b).bfloat16().float())


def test_a_reserved_block_is_accumulated_into(tmp_path: Path) -> None:
    script = kernel("\n            ".join(["for _ in range(2):", "    y_ += a_ @ b_"]))
    assert stock_refuses(tmp_path, script)
    found = mended(script)
    a, b = (t.bfloat16().float() for t in found["operands"])
    assert torch.allclose(found["got"], 2 * (a @ b), rtol=0.02, atol=0.02)


def test_compiler_options_are_accepted(tmp_path: Path) -> None:
    script = kernel("y_.store(a_ + b_)", options=', options="--no-ttl-maximize-dst"')
    assert "unexpected keyword" in stock(tmp_path, script)
    mended(script)


def test_a_block_is_cast(tmp_path: Path) -> None:
    assert "False" in stock(tmp_path, "print(hasattr(ttl.math, 'typecast'))")
    found = mended(kernel("y_.store(ttl.math.typecast(a_, ttnn.bfloat16))"))
    assert torch.equal(found["got"], found["operands"][0].bfloat16().float())


@pytest.mark.parametrize(
    "lacking", ["y_.store(-a_ * b_)", "y_.store(a_**2 * b_)", "y_.store(ttl.math.mask(a_, b_))"]
)
def test_what_the_compiler_lacks_is_refused(tmp_path: Path, lacking: str) -> None:
    script = kernel(lacking)
    assert not stock_refuses(tmp_path, script)
    with pytest.raises(RuntimeError, match="compiler has no"):
        mended(script)


def test_an_unused_block_may_be_popped(tmp_path: Path) -> None:
    script = kernel("y_.store(a_)")
    assert stock_refuses(tmp_path, script)
    mended(script)


def test_more_l1_than_a_core_has_is_refused() -> None:
    script = kernel("y_.store(a_ @ b_)", a=(1, 400), b=(400, 1))
    with pytest.raises(simulator.UnsupportedByCompilerError, match="a core has"):
        mended(script)


def test_an_unused_buffer_is_refused() -> None:
    script = kernel("y_.store(a_ + b_)").replace(
        "    @ttl.compute()",
        "    c_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1))\n\n    @ttl.compute()",
    )
    script = script.replace("with a_dfb.wait()", "_ = c_dfb\n        with a_dfb.wait()")
    with pytest.raises(simulator.UnsupportedByCompilerError, match="c_dfb"):
        mended(script)


def test_a_buffer_whose_loop_no_node_enters_is_used() -> None:
    script = kernel("y_.store(a_ + b_)").replace(
        "    @ttl.compute()",
        "    c_dfb = ttl.make_dataflow_buffer_like(a, shape=(1, 1))\n\n    @ttl.compute()",
    )
    never = "for _ in range(0):\n            with c_dfb.reserve() as _:\n                pass\n"
    found = mended(script.replace("with a_dfb.wait()", f"{never}        with a_dfb.wait()"))
    assert torch.isfinite(found["got"]).all()


def test_a_copy_must_be_waited_for() -> None:
    script = kernel("y_.store(a_ + b_)").replace("0 : (1, 1)[1]], blk).wait()", "0 : 1], blk)", 1)
    with pytest.raises(simulator.UnsupportedByCompilerError, match="not waited for"):
        mended(script)


def test_bytes_are_counted_by_tensor_and_node() -> None:
    with simulator.counting() as traffic:
        mended(kernel("y_.store(a_ @ b_)", a=(1, 2), b=(2, 1)))
    assert traffic.read_bytes == {"a": 2 * 2048, "b": 2 * 2048}
    assert traffic.written_bytes == {"y": 2048}
    assert traffic.tiles_read == traffic.read_bytes
    assert traffic.readers == {"a": {0}, "b": {0}}
    assert traffic.l1_bytes == 2 * (2 + 2 + 1) * 2048


def test_a_tile_read_twice_counts_twice_but_had_to_cross_once() -> None:
    call = "op(*(put(t) for t in operands), out)"
    script = kernel("y_.store(a_ + b_)")
    with simulator.counting() as traffic:
        mended(script.replace(call, f"{call}\n{call}"))
    assert traffic.launches == 2
    assert traffic.read_bytes == {"a": 2 * 2048, "b": 2 * 2048}
    assert traffic.tiles_read == {"a": 2048, "b": 2048}
