"""Edits a copy of the ttnn wheel's device headers.

Two edits help an older GCC; the others change what runs, and say so.
"""

import pathlib
import re

ARCHITECTURES = {"blackhole": "tt_llk_blackhole", "wormhole": "tt_llk_wormhole_b0"}


def apply(metal: pathlib.Path) -> None:
    """Every edit, once, in a fresh copy of the wheel's tt_metal."""
    for_gcc_12(metal / "hw")
    for_gcc_12(metal / "tt-llk")
    copies_that_flush_denormals(metal / "hw/inc/api")
    fills_by_bits(metal / "hw/inc/api")
    for board, llk in ARCHITECTURES.items():
        constants_loaded_when_used(metal / "tt-llk" / llk)
        without_the_32_bit_dst_workaround(metal / "tt-llk" / llk)
        typecast_to_bf16_in_32_bit_dst(metal / "tt-llk" / llk)
        packer_configured_when_idle(metal / "tt-llk" / llk)
        multicast_increments_as_unicasts(metal / "hw", board)


def replace(path: pathlib.Path, old: str, new: str) -> None:
    """Replaces `old`; its absence means another version of the wheel."""
    text = path.read_text()
    if old not in text:
        raise ValueError(f"{path} is not as in ttnn 0.69: no {old.strip()!r}")
    path.write_text(text.replace(old, new))


def for_gcc_12(root: pathlib.Path) -> None:
    """`#pragma GCC unroll NAME` needs GCC 15, an untaken `static_assert(false)` GCC 13."""
    for path in root.rglob("*"):
        if path.suffix not in (".h", ".hpp", ".cc", ".cpp", ".inl") or not path.is_file():
            continue
        old = path.read_text(errors="surrogateescape")
        new = re.sub(r"^(\s*)#pragma GCC unroll\s+(?!\d+\s*$)\S.*$", r"\1", old, flags=re.M)
        new = re.sub(r"static_assert\(\s*false\b", "static_assert(true", new)
        if new != old:
            path.write_text(new, errors="surrogateescape")


def constants_loaded_when_used(llk: pathlib.Path) -> None:
    """GCC 12 loads all of a polynomial's constants first, more than eight registers hold (exp)."""
    replace(
        llk / "common/inc/sfpu/ckernel_sfpu_polyval.h",
        "        return coeff0 + x * eval(x, other_coefficients...);",
        "        auto rest = x * eval(x, other_coefficients...);\n        return coeff0 + rest;",
    )


def fills_by_bits(api: pathlib.Path) -> None:
    """A fill's number as an integer: GCC 12 would load it as a float, which wolfpine has not."""
    replace(
        api / "compute/eltwise_unary/fill.h",
        "EXTRA_PARAM(_calculate_fill_, RC, APPROX, 8, idst, param0));",
        "EXTRA_PARAM(\n        _calculate_fill_bitcast_, RC, APPROX, 8, idst,"
        " __builtin_bit_cast(uint32_t, param0)));",
    )


def copies_that_flush_denormals(api: pathlib.Path) -> None:
    """CHANGES WHAT RUNS. A copy or a unary operation no longer asks to keep denormals in Src.

    The unpack thread sets that bit for the whole core while the math thread may still be in the
    matmul before, which ttsim refuses and on which a card's result depends by chance. Without it a
    copied float below 2⁻¹²⁶ becomes 0, as it does in any matmul, sum or product: no float that a
    kernel of ours can tell from 0. UInt16 still sets it, 32-bit integers do not pass through Src.
    """
    replace(
        api / "compute/eltwise_unary/eltwise_unary.h",
        "llk_unpack_hw_configure<DST_ACCUM_MODE, true>(icb)",
        "llk_unpack_hw_configure<DST_ACCUM_MODE>(icb)",
    )


def packer_configured_when_idle(llk: pathlib.Path) -> None:
    """CHANGES WHAT RUNS. The packer is configured anew only once it has packed what was before.

    Unpacker and math wait so, the packer does not: it is configured by plain stores, which overtake
    its queued instructions. TT-Lang configures all three before every statement, so where two
    statements in a row have different output formats, the end of a tile is written in the wrong one
    (wolfpine) or refused (ttsim). A card has no such wait: a doubt that only one can settle.
    """
    call = "    configure_pack<is_fp32_dest_acc_en, untilize"
    replace(llk / "llk_lib/llk_pack.h", call, "    tensix_sync();\n" + call)


ROUNDED_IN_PLACE = """        TTI_SFPSHFT((-16) & 0xFFF, p_sfpu::LREG1, p_sfpu::LREG1, {mode});
        TTI_SFPSHFT(16, p_sfpu::LREG1, p_sfpu::LREG1, {mode});
        TTI_SFPSTORE(p_sfpu::LREG1, InstrModLoadStore::DEFAULT, ADDR_MOD_{address}, 0);
"""


def typecast_to_bf16_in_32_bit_dst(llk: pathlib.Path) -> None:
    """CHANGES WHAT RUNS. Mends float32 → bfloat16 in the form without SFPLOADMACRO.

    That form, which the simulators need and a card does not run, stores 16 bits, and in 32-bit Dst
    ttsim and wolfpine both put them into another row (twice the largest value off, both alike).
    Here the rounded value is stored with 32.
    """
    path = llk / "common/inc/sfpu/ckernel_sfpu_typecast.h"
    text = path.read_text()
    start = text.index("void _calculate_typecast_fp32_to_fp16b_()")
    mode, address = (5, 6) if llk.name.endswith("blackhole") else (1, 2)
    store = (
        f"        TTI_SFPSTORE(p_sfpu::LREG1, InstrModLoadStore::FP16B, ADDR_MOD_{address}, 0);\n"
    )
    rounded = ROUNDED_IN_PLACE.format(mode=mode, address=address)
    path.write_text(text[:start] + text[start:].replace(store, rounded, 1))


def without_the_32_bit_dst_workaround(llk: pathlib.Path) -> None:
    """CHANGES WHAT RUNS. ttsim refuses the debug write around a hardware bug in 32-bit Dst."""
    for name in ("llk_math_common.h", "llk_unpack_common.h"):
        replace(llk / "llk_lib" / name, "DBG_FEATURE_DISABLE, 1 << 11)", "DBG_FEATURE_DISABLE, 0)")


UNICASTS = """    {   // stand-in: a rectangle of unicast increments
        uint32_t c = (uint32_t)(addr >> NOC_ADDR_LOCAL_BITS) & 0xffffff, ax = (c >> 12) & 63, ay = c >> 18, bx = c & 63, by = (c >> 6) & 63;
        uint32_t x0 = ax < bx ? ax : bx, x1 = ax < bx ? bx : ax, y0 = ay < by ? ay : by, y1 = ay < by ? by : ay;
        for (uint32_t y = y0; y <= y1; y++)
            for (uint32_t x = x0; x <= x1; x++)
                if (HAS_WORKER && !(x == my_x[noc] && y == my_y[noc]))
                    noc_fast_atomic_increment<noc_mode>(noc, cmd_buf, NOC_XY_ADDR(x, y, addr & 0xffffffffu), 1, incr, wrap, false, posted, atomic_ret_val);
        return;
    }
"""
HAS_WORKER = {"blackhole": "x != 8 && x != 9", "wormhole": "(x > 16 || (x != 5 && y != 6))"}


def multicast_increments_as_unicasts(hw: pathlib.Path, board: str) -> None:
    """CHANGES WHAT RUNS. No multicast atomics: ttsim 1.10 refuses, wolfpine 2.2 sends one."""
    path = hw / f"inc/internal/tt-1xx/{board}/noc_nonblocking_api.h"
    text = path.read_text()
    start = text.index("void noc_fast_multicast_atomic_increment(")
    body = text.index(") {\n", start) + len(") {\n")
    unicasts = UNICASTS.replace("HAS_WORKER", HAS_WORKER[board])
    path.write_text(text[:body] + unicasts + text[body:])
