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
COMPILER = "riscv64-unknown-elf-g++"
PICOLIBC = "/usr/lib/picolibc/riscv64-unknown-elf"
LIBGCC = pathlib.Path("/usr/lib/gcc/riscv64-unknown-elf").glob("*/rv32im/ilp32/libgcc.a")
MARCH = {
    "tt-wh": "rv32im_zicsr_zifencei",
    "tt-wh-tensix": "rv32imfd_zicsr_zifencei",
    "tt-bh": "rv32ima_zicsr_zifencei_zba_zbb",
    "tt-bh-tensix": "rv32imafd_zicsr_zifencei_zba_zbb",
}
SUPPORT = {"noc.o", "substitutes.o", "tdma_xmov.o"}
"""Made by prepare.py: the wheel's are LTO objects of a newer GCC."""
NOT_VECTORS = (
    [f"fs{i}" for i in range(12)] + [f"fa{i}" for i in range(8)] + [f"ft{i}" for i in range(8, 12)]
)
CODE = [
    f"-B{HERE}/bin/",  # the assembler that encodes .ttinsn
    "-w",
    "-nostdinc++",
    "-fpermissive",
    "-mstrict-align",
    "-fno-jump-tables",
    "-fno-tree-switch-conversion",
]
HEADERS = [
    "-include",
    f"{HERE}/prelude.h",
    f"-isystem{STANDIN}/cxx",
    f"-isystem{STANDIN}/cxx/arm-none-eabi",
    f"-isystem{STANDIN}/cxx/backward",
    f"-isystem{PICOLIBC}/include",
]


def libraries() -> list[str]:
    archives = [f"{PICOLIBC}/lib/rv32im/ilp32/libc.a", str(max(LIBGCC))]
    return ["-nodefaultlibs", "-Wl,--start-group", *archives, "-Wl,--end-group"]


def translated(argument: str, cpu: str, links: bool) -> list[str]:
    """What an argument for the vendor's GCC is in stock GCC."""
    path = pathlib.Path(argument)
    if argument.startswith("-mcpu="):
        return [f"-march={MARCH[cpu]}", "-mabi=ilp32"]
    if argument == "-std=c++17":
        return ["-std=gnu++20"]
    if argument.startswith("-flto"):
        return ["-flto=1", "-flto-partition=none"]
    if argument.startswith(("-ftt-", "-Werror")) or argument == "-Wall":
        return []
    if links and path.name in SUPPORT and "/hw/lib/" in argument:
        return [str(STANDIN / "lib" / cpu / path.name)]
    return [argument]


def translate(arguments: list[str]) -> list[str]:
    cpu = next((a.removeprefix("-mcpu=") for a in arguments if a.startswith("-mcpu=")), "tt-bh")
    links = not {"-c", "-S", "-E"} & set(arguments)
    code = list(CODE)
    if cpu.endswith("-tensix"):
        code += [f"-ffixed-{register}" for register in NOT_VECTORS]
    kept = [new for old in arguments for new in translated(old, cpu, links)]
    return [COMPILER, *code, *kept, *HEADERS, *(libraries() if links else [])]


if __name__ == "__main__":
    command = translate(sys.argv[1:])
    done = subprocess.run(command, capture_output=True, text=True)
    with (STANDIN / "calls.log").open("a") as log:
        log.write(f"== rc={done.returncode} in {pathlib.Path.cwd()}\n{' '.join(command)}\n")
        log.write(f"{done.stdout}{done.stderr}\n")
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    sys.exit(done.returncode)
