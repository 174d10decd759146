"""Builds the vendor's simulator with two counters added: bytes that cores move to and from DRAM.

    python -m tests.chip.counting_ttsim SOURCES [--out DIR]

SOURCES is a checkout of github.com/tenstorrent/ttsim; it is copied, not touched. What is simulated
stays the same: the edits add up the sizes of requests that are served anyway. Prints the library's
path, to be given as SIMULATOR.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / ".cache/chip/counting"
COUNTERS = (
    'extern "C" { __attribute__((visibility("default"))) uint64_t libttsim_dram_bytes[2]; }\n'
)
READ = "        tile_rd_bytes(src_coordinate, src_addr, &p_tile->sram[dst_addr], noc_at_len_be);\n"
WRITE = "        tile_wr_bytes(dst_coordinate, dst_addr, &p_tile->sram[src_addr], noc_at_len_be);\n"
ANY_WRITE = "    } else if (bits<1,1>(noc_ctrl)) { // write -- either L1 -> L1 or L1 -> DRAM"
INCLUDE = '#include "sim.h"\n'
EXPORTED = "        libttsim_clock;\n"


class ChangedError(Exception):
    """The sources are not those that the edits were written for."""


def edited(text: str) -> str:
    """src/tile.cpp with counters: requests of cores, told by the kind of tile at the far end."""
    for line in (READ, ANY_WRITE, INCLUDE):
        if text.count(line) != 1:
            raise ChangedError(f"{line.strip()!r} is there {text.count(line)} times")
    text = text.replace(INCLUDE, INCLUDE + COUNTERS)
    count = "        libttsim_dram_bytes[{}] += {}_tile_type == 'D' ? noc_at_len_be : 0;\n"
    text = text.replace(READ, count.format(0, "src") + READ)
    before, branch, after = text.partition(ANY_WRITE)
    if WRITE not in after:
        raise ChangedError(f"{WRITE.strip()!r} is not there")
    return before + branch + after.replace(WRITE, count.format(1, "dst") + WRITE, 1)


def build(sources: Path, out: Path) -> Path:
    """Copies, edits and builds; returns the library.

    Raises:
        ChangedError: the sources changed.
        subprocess.CalledProcessError: they do not build.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ttsim"
        shutil.copytree(sources, copy, ignore=shutil.ignore_patterns(".git", "_out"))
        tile, exports = copy / "src/tile.cpp", copy / "src/libttsim.map"
        tile.write_text(edited(tile.read_text()))
        exports.write_text(
            exports.read_text().replace(EXPORTED, EXPORTED + "        libttsim_dram_bytes;\n")
        )
        target = "src/_out/release_bh/libttsim.so"
        subprocess.run([sys.executable, "make.py", target], cwd=copy, check=True)
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(copy / target, out / "libttsim_bh.so"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path, help="a checkout of the vendor's simulator")
    parser.add_argument("--out", type=Path, default=OUT, help="where to put the library")
    arguments = parser.parse_args()
    try:
        print(build(arguments.sources, arguments.out))
    except (ChangedError, subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"counting_ttsim: {error}")


if __name__ == "__main__":
    main()
