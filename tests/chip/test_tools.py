"""What the tools make of constructs that the kernels avoid or lean on: today's state, precisely.

A test that fails after an upgrade tells of a change: most of them show something wrong, and then a
kernel may drop its detour. The questions are in tests/chip/state; each simulator answers them all.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import runtime

runtime.choose("sim")  # this process only reads tables; the chip is in a process of its own

from kernels.block_float import BFP4_BITS, BFP8_BITS, round_to_block_float  # noqa: E402
from kernels.tensorbin import HEADER_BYTES, TEMPLATE  # noqa: E402
from tests.chip import cycles, environment, runner  # noqa: E402
from tests.chip.environment import SIMULATOR, WOLFPINE  # noqa: E402
from tests.chip.state import operations, probes  # noqa: E402
from tests.chip.state.answering import Answer  # noqa: E402
from tests.kernels.case import all_cases  # noqa: E402

pytestmark = pytest.mark.chip
ON_WOLFPINE = SIMULATOR == WOLFPINE
Answers = dict[str, Answer]


def _ask(module: Any, names: list[str], factory: pytest.TempPathFactory, each: float) -> Answers:
    folder = Path(factory.mktemp("tools"))
    env = environment.simulated(SIMULATOR)
    return runner.rows(environment.python(), "run", names, env, folder, each, module.__name__)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return _ask(probes, list(probes.PROBES), tmp_path_factory, 60)


@pytest.fixture(scope="module")
def ttnn_found(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    names = [n for n in operations.OPERATIONS if not (ON_WOLFPINE and n in NOT_ON_WOLFPINE)]
    return _ask(operations, names, tmp_path_factory, 120)


def right(answer: Answer, roundings: float = 2.0) -> bool:
    return "roundings" in answer and answer["roundings"] <= roundings


def wrong(answer: Answer) -> bool:
    """Compiled, ran, and gave something else."""
    return "wrong" in answer and answer["wrong"] > 0.5


def refused(answer: Answer, words: str) -> bool:
    return words in answer.get("error", "")


def aborted(answer: Answer) -> bool:
    return answer.get("error", "").startswith("SIGABRT")


# --- Compiled without a word, and wrong -------------------------------------------------------


def test_a_product_times_a_block_is_wrong_with_two_output_tiles(found: Answers) -> None:
    assert right(found["product-times-block-one-tile"])
    assert wrong(found["product-times-block-two-tiles"])


def test_a_product_subtracted_from_a_block_is_wrong_and_added_right(found: Answers) -> None:
    assert wrong(found["product-subtracted"])
    assert right(found["product-added"])


def test_two_fills_in_an_expression_are_wrong_but_for_an_option(found: Answers) -> None:
    assert wrong(found["two-fills"])
    assert right(found["two-fills-without-maximize-dst"])


def test_rsqrt_fused_with_mul_and_fill_is_wrong_with_two_tiles(found: Answers) -> None:
    """The research code's precision bug: it is the same hoisting of fills."""
    assert wrong(found["rsqrt-fill-two-tiles"])
    assert right(found["rsqrt-fill-one-tile"])


@pytest.mark.parametrize("mended", ["rsqrt-fill-without-maximize-dst", "rsqrt-tiles-as-data"])
def test_rsqrt_is_mended_by_an_option_or_by_tiles_as_data(found: Answers, mended: str) -> None:
    assert right(found[mended])


def test_accumulating_beside_another_store_is_wrong_and_alone_right(found: Answers) -> None:
    assert wrong(found["accumulate-beside-a-store"])
    assert wrong(found["accumulate-twice-without-a-loop"])
    if not ON_WOLFPINE:
        assert right(found["accumulate-alone"])


@pytest.mark.skipif(not ON_WOLFPINE, reason="shows a limit of wolfpine")
def test_wolfpine_does_not_accumulate_in_l1(found: Answers) -> None:
    """It keeps the last product: kernels with += say so in `refused`."""
    assert wrong(found["accumulate-alone"])


def test_a_counter_reassigned_in_a_loop_stays_and_one_increased_counts(found: Answers) -> None:
    assert wrong(found["counter-reassigned"])
    assert right(found["counter-increased"])


def test_another_integer_keyword_runs_the_stale_kernel(found: Answers) -> None:
    assert found["stale-keyword"]["got"] == [0.0, 0.0]  # 0, then 1, were it compiled again


def test_the_extent_of_a_slice_is_ignored(found: Answers) -> None:
    assert found["slice-extent"]["got"] == [1.0, 2.0]  # a slice of one tile filled two


def test_a_buffers_third_dimension_gets_no_room() -> None:
    """Read, not run: what lies behind it in L1 would be overwritten."""
    text = _installed("ttl/kernel_runner.py").read_text()
    assert "num_tiles = cb.shape[0] * cb.shape[1] * cb.block_count" in text


@pytest.mark.skipif(not ON_WOLFPINE, reason="shows what wolfpine has beside")
def test_wolfpines_timing_model_tells_how_busy_a_core_is(tmp_path: Path) -> None:
    """tanh over two tiles: the vector unit's cycles, for 32 vectors a tile."""
    softcap = next(case for case in all_cases() if case.name == "softcap-one-node")
    row = cycles.busy(softcap, environment.simulated("wolfpine"), tmp_path, 120)
    assert row["busiest_unit"] == "Vector", row
    assert 2 * 32 * 10 < row["busy_cycles"]["Vector"] < row["span_cycles"]


# --- Precision --------------------------------------------------------------------------------


def test_a_chain_of_sums_rounds_each_time_unless_dst_has_32_bits(found: Answers) -> None:
    assert right(found["sum-of-two"], 1.0)
    assert 3 < found["chain-of-six"]["roundings"] < 5
    assert right(found["chain-of-six-in-32-bit-dst"], 1.0)


def test_gelu_is_a_table(found: Answers) -> None:
    """In float32, where exp errs by 1e-7 of its value."""
    assert 0.02 < found["gelu"]["error_max"] < 0.03


def test_recip_errs_in_its_eleventh_bit(found: Answers) -> None:
    assert 2**-13 < found["recip"]["error_max"] < 2**-10


def test_a_maximum_is_exact_and_a_sum_right_in_the_first_column(found: Answers) -> None:
    assert right(found["reduce-max"], 0.0)
    assert right(found["reduce-sum"], 2.5)


def test_casts_are_right_with_our_mended_header(found: Answers) -> None:
    assert right(found["typecast-to-f32"], 0.0)
    assert right(found["typecast-to-bf16"], 1.0)


def test_the_vendors_cast_to_bf16_stores_16_bits_into_32_bit_dst() -> None:
    """Only in the form without SFPLOADMACRO; patches.typecast_to_bf16_in_32_bit_dst mends it."""
    header = "tt_llk_blackhole/common/inc/sfpu/ckernel_sfpu_typecast.h"
    text = next(_installed("ttnn").rglob(header)).read_text()
    body = text[text.index("void _calculate_typecast_fp32_to_fp16b_()") :]
    store = "TTI_SFPSTORE(p_sfpu::LREG1, InstrModLoadStore::FP16B, ADDR_MOD_6, 0);"
    assert store in body[: body.index("\n}\n")]


def _installed(name: str) -> Path:
    return (
        next((environment.python().parent.parent / "lib").glob("python3.12/site-packages")) / name
    )


# --- Refused, each in its own way -------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ("bf16-product-in-f32", "must match view element type"),
        ("typecast-to-its-own", "input and result tile data types must differ"),
        ("typecast-of-a-product", "does not match operand element type"),
        ("bf16-times-bfp8", "element type mismatch"),
        ("bf16-plus-f32", "incompatible tensor data types"),
        ("f32-stored-as-bf16", "must match view element type"),
        ("squared", "no attribute 'element_type'"),
        ("halved", "no attribute 'element_type'"),
        ("where", "Unknown function: ttl.math.where"),
        ("mask", "Unknown function: ttl.math.mask"),
        ("clamp", "Unknown function: ttl.math.clamp"),
        ("row-major", "requires tilized tensors"),
        ("unused-buffer", "Missing CB config"),
    ],
)
def test_the_compiler_refuses(found: Answers, probe: str, words: str) -> None:
    assert refused(found[probe], words), found[probe]


@pytest.mark.parametrize("probe", ["negated", "two-products", "uint32"])
def test_the_compiler_aborts_its_process(found: Answers, probe: str) -> None:
    assert aborted(found[probe]), found[probe]


# --- ttnn's operations ------------------------------------------------------------------------

NOT_ON_WOLFPINE = {
    "linear-bf16": "it refuses ttnn.matmul",
    "linear-bfp8": "it refuses bfp8 unpack",
    **dict.fromkeys(("add", "gelu", "softmax", "topk", "argmax"), "minutes, on all of its cores"),
    **dict.fromkeys(
        (
            "rms_norm-small",
            *(f"update-cache-{d}" for d in (128, 256, 384)),
            "paged-update-cache-256",
        ),
        "another one shows it",
    ),
}
BOUNDS = {
    "embedding": 0.0,
    "topk": 0.0,
    "add": 0.0,
    "rms_norm": 0.015,
    "rms_norm-small": 0.015,
    "linear-bf16": 0.015,
    "linear-bfp8": 0.015,
    "gelu": 0.004,
    "softmax": 0.05,
}
"""Of the largest wanted value."""


def _answered(ttnn_found: Answers, name: str) -> Answer:
    if ON_WOLFPINE and name in NOT_ON_WOLFPINE:
        pytest.skip(f"not on wolfpine: {NOT_ON_WOLFPINE[name]}")
    return ttnn_found[name]


@pytest.mark.parametrize("head_dim", operations.HEAD_DIMS)
def test_update_cache_leaves_its_neighbours_alone(ttnn_found: Answers, head_dim: int) -> None:
    """The research code saw them corrupted above 256; here that does not show."""
    answer = _answered(ttnn_found, f"update-cache-{head_dim}")
    assert answer == answer | {"wrong_at_written": [], "wrong_elsewhere": []}


@pytest.mark.parametrize("head_dim", [256, 512])
def test_a_cache_is_updated_at_positions_on_the_device(ttnn_found: Answers, head_dim: int) -> None:
    answer = _answered(ttnn_found, f"paged-update-cache-{head_dim}")
    assert answer == answer | {"wrong_at_written": [], "wrong_elsewhere": []}


@pytest.mark.parametrize("name", BOUNDS)
def test_an_operation_of_ttnn_agrees_with_torch(ttnn_found: Answers, name: str) -> None:
    answer = _answered(ttnn_found, name)
    assert answer.get("relative_error", 1e9) <= BOUNDS[name], answer


def test_topk_and_argmax_name_the_largest(ttnn_found: Answers) -> None:
    assert _answered(ttnn_found, "argmax").get("agree") == 1.0
    assert _answered(ttnn_found, "topk").get("indices_agree") == 1.0


# --- Block floats -----------------------------------------------------------------------------


def test_our_block_floats_are_ttnns_bit_for_bit(tmp_path: Path) -> None:
    out = tmp_path / "found.pt"
    command = [environment.python(), "-m", "tests.chip.state.block_float", out]
    done = subprocess.run(command, env=environment.mock("p150"), capture_output=True, cwd=tmp_path)
    assert out.exists(), done.stderr.decode()[-2000:]
    for name, tensors in torch.load(out).items():
        for fmt, bits in (("bfloat8_b", BFP8_BITS), ("bfloat4_b", BFP4_BITS)):
            got, want = round_to_block_float(tensors["values"], bits), tensors[fmt]
            assert torch.equal(got.view(torch.int32), want.view(torch.int32)), (name, fmt)


@pytest.mark.parametrize("where", ["mock card", "simulated chip"])
def test_a_prepared_matrix_is_what_ttnn_makes_of_it_byte_for_byte(
    tmp_path: Path, where: str
) -> None:
    """And ttnn loads it as it loads its own: there is nothing to convert."""
    if where == "simulated chip" and environment.name_of(environment.SIMULATOR) == "wolfpine":
        pytest.skip("wolfpine knows no block floats: SIMULATOR=… for the vendor's")
    out = tmp_path / "found.pt"
    command = [environment.python(), "-m", "tests.chip.state.tensorbin", out]
    is_mock = where == "mock card"
    env = environment.mock("p150") if is_mock else environment.simulated(environment.SIMULATOR)
    done = subprocess.run(command, env=env, capture_output=True, cwd=tmp_path)
    assert out.exists(), done.stderr.decode()[-2000:]
    found = torch.load(out)
    assert len(found) == 48
    for name, seen in found.items():
        mine, theirs, length = seen["mine"], seen["theirs"], len(TEMPLATE)
        assert mine[8:length] == theirs[8:length], name  # before: the header's size
        assert mine[HEADER_BYTES:] == theirs[length:], name
        assert seen["same spec"], name
        assert torch.equal(seen["values"].view(torch.int32), seen["put"].view(torch.int32)), name
