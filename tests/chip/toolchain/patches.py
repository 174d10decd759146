"""Edits a copy of the ttnn wheel's device headers.

Two patches help an older GCC; three change what runs, and say so.
"""

import pathlib
import re


def for_gcc_12(root: pathlib.Path) -> int:
    """`#pragma GCC unroll NAME` needs GCC 15, an untaken `static_assert(false)` GCC 13."""
    edited = 0
    for path in root.rglob("*"):
        if path.suffix not in (".h", ".hpp", ".cc", ".cpp", ".inl") or not path.is_file():
            continue
        old = path.read_text(errors="surrogateescape")
        new = re.sub(r"^(\s*)#pragma GCC unroll\s+(?!\d+\s*$)\S.*$", r"\1", old, flags=re.M)
        new = re.sub(r"static_assert\(\s*false\b", "static_assert(true", new)
        if new != old:
            path.write_text(new, errors="surrogateescape")
            edited += 1
    return edited


UNICASTS = """    {   // stand-in: a rectangle of unicast increments, columns 8 and 9 hold no workers
        uint32_t c = (uint32_t)(addr >> NOC_ADDR_COORD_SHIFT) & 0xffffff, ax = (c >> 12) & 63, ay = c >> 18, bx = c & 63, by = (c >> 6) & 63;
        uint32_t x0 = ax < bx ? ax : bx, x1 = ax < bx ? bx : ax, y0 = ay < by ? ay : by, y1 = ay < by ? by : ay;
        for (uint32_t y = y0; y <= y1; y++)
            for (uint32_t x = x0; x <= x1; x++)
                if (x != 8 && x != 9 && !(x == my_x[noc] && y == my_y[noc]))
                    noc_fast_atomic_increment<noc_mode>(noc, cmd_buf, NOC_XY_ADDR(x, y, addr & 0xffffffffu), 1, incr, wrap, false, posted, atomic_ret_val);
        return;
    }
"""


def multicast_increments_as_unicasts(hw: pathlib.Path) -> None:
    """CHANGES WHAT RUNS. No multicast atomics: ttsim 1.10 refuses, wolfpine 2.2 sends one."""
    path = hw / "inc/internal/tt-1xx/blackhole/noc_nonblocking_api.h"
    text = path.read_text()
    start = text.index("void noc_fast_multicast_atomic_increment(")
    body = text.index(
        "    // On Blackhole issuing inline writes and atomics requires all 4 memory ports", start
    )
    if "stand-in: a rectangle" not in text:
        path.write_text(text[:body] + UNICASTS + text[body:])


def without_the_32_bit_dst_workaround(llk: pathlib.Path) -> None:
    """CHANGES WHAT RUNS. ttsim refuses the debug write around a hardware bug in 32-bit Dst."""
    for name in ("llk_math_common.h", "llk_unpack_common.h"):
        path = llk / "tt_llk_blackhole/llk_lib" / name
        path.write_text(
            path.read_text().replace("DBG_FEATURE_DISABLE, 1 << 11)", "DBG_FEATURE_DISABLE, 0)")
        )


ROUNDED_IN_PLACE = """        TTI_SFPSHFT((-16) & 0xFFF, p_sfpu::LREG1, p_sfpu::LREG1, 5);
        TTI_SFPSHFT(16, p_sfpu::LREG1, p_sfpu::LREG1, 5);
        TTI_SFPSTORE(p_sfpu::LREG1, InstrModLoadStore::DEFAULT, ADDR_MOD_6, 0);
"""


def typecast_to_bf16_in_32_bit_dst(llk: pathlib.Path) -> None:
    """CHANGES WHAT RUNS. Mends float32 → bfloat16 in the form without SFPLOADMACRO.

    That form, which the simulators need and a card does not run, stores 16 bits, and in 32-bit Dst
    both simulators put them into another row. Here the rounded value is stored with 32.
    """
    path = llk / "tt_llk_blackhole/common/inc/sfpu/ckernel_sfpu_typecast.h"
    text = path.read_text()
    start = text.index("void _calculate_typecast_fp32_to_fp16b_()")
    store = "        TTI_SFPSTORE(p_sfpu::LREG1, InstrModLoadStore::FP16B, ADDR_MOD_6, 0);\n"
    head, tail = text[:start], text[start:]
    path.write_text(head + tail.replace(store, ROUNDED_IN_PLACE, 1))
