#!/usr/bin/env python3
"""Stands in for the vendor's riscv-tt-elf-g++, around Debian's riscv64-unknown-elf-g++ 12.

Knows which flags of the vendor's GCC have another name or none in stock GCC, and that the SFPU's
registers LReg0-7 are ft0-ft7 here: every other floating-point register is fixed, so that GCC's own
allocator places the vectors (macros.s). TT_STANDIN names the folder that prepare.py filled: lib/
(support objects), cxx/ (C++ headers), calls.log.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
STANDIN = pathlib.Path(os.environ["TT_STANDIN"])
PICOLIBC = "/usr/lib/picolibc/riscv64-unknown-elf"
MARCH = {
    "tt-wh": "rv32im_zicsr_zifencei",
    "tt-wh-tensix": "rv32imfd_zicsr_zifencei",
    "tt-bh": "rv32ima_zicsr_zifencei_zba_zbb",
    "tt-bh-tensix": "rv32imafd_zicsr_zifencei_zba_zbb",
}
SUPPORT = {"noc.o", "substitutes.o", "tdma_xmov.o"}  # the wheel's are LTO objects of a newer GCC
NOT_VECTORS = (
    [f"fs{i}" for i in range(12)] + [f"fa{i}" for i in range(8)] + [f"ft{i}" for i in range(8, 12)]
)


def translate(arguments: list[str]) -> list[str]:
    cpu = next((a[6:] for a in arguments if a.startswith("-mcpu=")), "tt-bh")
    links = not {"-c", "-S", "-E"} & set(arguments)
    kept = []
    for a in arguments:
        if a.startswith("-mcpu="):
            kept += [f"-march={MARCH[cpu]}", "-mabi=ilp32"]
        elif a == "-std=c++17":
            kept.append("-std=gnu++20")
        elif a.startswith("-flto"):
            kept += ["-flto=1", "-flto-partition=none"]
        elif a.startswith(("-ftt-", "-Werror")) or a == "-Wall":
            continue
        elif links and pathlib.Path(a).name in SUPPORT and "/hw/lib/" in a:
            kept.append(str(STANDIN / "lib" / cpu / pathlib.Path(a).name))
        else:
            kept.append(a)
    code = [
        f"-B{HERE}/bin/",
        "-w",
        "-nostdinc++",
        "-fpermissive",
        "-mstrict-align",
        "-fno-jump-tables",
        "-fno-tree-switch-conversion",
    ]
    if cpu.endswith("-tensix"):
        code += [f"-ffixed-{register}" for register in NOT_VECTORS]
    cxx = STANDIN / "cxx"
    headers = [
        "-include",
        f"{HERE}/prelude.h",
        f"-isystem{cxx}",
        f"-isystem{cxx}/arm-none-eabi",
        f"-isystem{cxx}/backward",
        f"-isystem{PICOLIBC}/include",
    ]
    libraries = [
        "-nodefaultlibs",
        "-Wl,--start-group",
        f"{PICOLIBC}/lib/rv32im/ilp32/libc.a",
        "/usr/lib/gcc/riscv64-unknown-elf/12.2.0/rv32im/ilp32/libgcc.a",
        "-Wl,--end-group",
    ]
    return ["riscv64-unknown-elf-g++", *code, *kept, *headers, *(libraries if links else [])]


if __name__ == "__main__":
    command = translate(sys.argv[1:])
    done = subprocess.run(command, capture_output=True, text=True)
    with (STANDIN / "calls.log").open("a") as log:
        log.write(f"== rc={done.returncode} in {pathlib.Path.cwd()}\n{' '.join(command)}\n")
        log.write(f"{done.stdout}{done.stderr}\n")
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    sys.exit(done.returncode)
