#!/usr/bin/env python3
"""Prepares a folder in which ttnn and TT-Lang run compiled kernels on a simulated chip.

Needs neither a card nor the vendor's kernel compiler:

    python prepare.py --out DIR --simulator wolfpine            # or the vendor's libttsim_bh.so
                                                                # (Blackhole) or libttsim_wh.so
    . DIR/env.sh

in the Python 3.12 environment with tt-lang 1.1.1 and wolfpine 2.2.

Knows the layout of the ttnn wheel and of Debian's cross compiler; knows nothing of kernels.
What is prepared already is left alone.
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NoReturn

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "toolchain"))
import patches  # noqa: E402

DEBIAN = ["gcc-riscv64-unknown-elf", "binutils-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf"]
CXX_HEADERS = "libstdc++-arm-none-eabi-dev"  # headers only, the target does not matter


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the wheel calls an architecture in its several places."""

    name: str
    define: str
    llk: str
    defines: str
    cpus: tuple[str, str]
    description: str
    library: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Of the objects that every program links."""
        firmware = "firmware/src/tt-1xx"
        return (
            "toolchain/substitutes.cpp",
            f"{firmware}/{self.name}/noc.c",
            f"{firmware}/tdma_xmov.c",
        )


BLACKHOLE = Chip(
    "blackhole",
    "ARCH_BLACKHOLE",
    "tt_llk_blackhole",
    "blackhole_defines",
    ("tt-bh", "tt-bh-tensix"),
    "blackhole_140_arch.yaml",
    "libttsim_bh.so",
)
WORMHOLE = Chip(
    "wormhole",
    "ARCH_WORMHOLE",
    "tt_llk_wormhole_b0",
    "wormhole_b0_defines",
    ("tt-wh", "tt-wh-tensix"),
    "wormhole_b0_80_arch.yaml",
    "libttsim_wh.so",
)


def chip_of(simulator: str) -> Chip:
    """Told by the library's name, or by its folder's in the vendor's build tree."""
    path = pathlib.Path(simulator)
    return WORMHOLE if "_wh" in path.name or path.parent.name.endswith("_wh") else BLACKHOLE


def stop(message: str) -> NoReturn:
    sys.exit(f"prepare: {message}")


def ttnn_folder() -> pathlib.Path:
    spec = importlib.util.find_spec("ttnn")
    if spec is None or not spec.submodule_search_locations:
        stop("no ttnn in this Python: use the 3.12 environment with `pip install tt-lang==1.1.1`")
    folder = pathlib.Path(next(iter(spec.submodule_search_locations)))
    return folder if (folder / "tt_metal").is_dir() else folder.parent


def runtime_root(wheel: pathlib.Path, root: pathlib.Path) -> None:
    """The wheel's tree by links, but for the device headers, which are copied and patched."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "tt_metal").mkdir(parents=True)
    for entry in (wheel / "tt_metal").iterdir():
        target = root / "tt_metal" / entry.name
        if entry.name in ("hw", "tt-llk", "api"):
            shutil.copytree(entry, target)
        else:
            target.symlink_to(entry)
    (root / "ttnn").symlink_to(wheel / "ttnn")
    (root / "runtime").mkdir()
    (root / "runtime/hw").symlink_to(wheel / "runtime/hw")
    patches.apply(root / "tt_metal")
    sfpi = root / "runtime/sfpi"
    (sfpi / "compiler/bin").mkdir(parents=True)
    (sfpi / "compiler/bin/riscv-tt-elf-g++").symlink_to(HERE / "toolchain/gxx.py")
    shutil.copytree(HERE / "toolchain/include", sfpi / "include")


def cxx_headers(out: pathlib.Path) -> None:
    if (out / "cxx").is_dir():
        return
    work = out / "deb"
    work.mkdir(exist_ok=True)
    got = subprocess.run(
        ["apt-get", "download", CXX_HEADERS], cwd=work, capture_output=True, text=True
    )
    debs = list(work.glob("*.deb"))
    if not debs:
        stop(f"could not get {CXX_HEADERS}; apt-get update may help: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", debs[0], work / "x"], check=True)
    newest = sorted((work / "x/usr/include").rglob("c++/*/vector"))[-1].parent
    shutil.copytree(newest, out / "cxx")
    shutil.rmtree(work)


def support_objects(root: pathlib.Path, out: pathlib.Path, env: dict[str, str], chip: Chip) -> None:
    """The three objects that every program links, from their sources in the wheel."""
    metal, hw = root / "tt_metal", root / "tt_metal/hw"
    common = hw / "inc/internal/tt-1xx"
    board = common / chip.name
    folders = [metal, metal / "hostdevcommon/api", metal / "api", hw / "inc", common, board]
    folders += [board / chip.defines, board / "noc", hw / "firmware/src/tt-1xx"]
    folders.append(metal / "tt-llk" / chip.llk / "common/inc")
    defines = [chip.define, "TENSIX_FIRMWARE", "LOCAL_MEM_EN=0", "COMPILE_FOR_BRISC"]
    options = ["-std=c++17", "-Os", "-flto=auto", "-fno-exceptions", "-x", "c++"]
    options += [f"-D{name}" for name in defines] + [f"-I{folder}" for folder in folders]
    compiler = root / "runtime/sfpi/compiler/bin/riscv-tt-elf-g++"
    for cpu in chip.cpus:
        (out / "lib" / cpu).mkdir(parents=True, exist_ok=True)
        for source in chip.sources:
            target = out / "lib" / cpu / (pathlib.Path(source).stem + ".o")
            command = [compiler, f"-mcpu={cpu}", *options, "-c", hw / source, "-o", target]
            done = subprocess.run(
                command, env={**os.environ, **env}, capture_output=True, text=True
            )
            if done.returncode:
                stop(f"{source} for {cpu} does not compile: {done.stderr.strip().splitlines()[:1]}")


def simulator(choice: str, wheel: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """The value of TT_METAL_SIMULATOR.

    A folder for wolfpine; for a library, a link to it beside its description of the chip.
    """
    folder = out / "simulator"
    shutil.rmtree(folder, ignore_errors=True)
    if choice == "wolfpine":
        spec = importlib.util.find_spec("framework")
        if spec is None:
            stop("wolfpine is not installed in this Python: `pip install wolfpine==2.2`")
        source = pathlib.Path(next(iter(spec.submodule_search_locations))) / "sim/blackhole"
        folder.mkdir()
        for name in ("soc_descriptor.yaml", "cluster_descriptor.yaml"):
            shutil.copy(source / name, folder)
        (folder / "run.sh").write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -u "{HERE / "wolfpine_server.py"}" "$@"\n'
        )
        (folder / "run.sh").chmod(0o755)
        return folder
    library = pathlib.Path(choice).resolve()
    if not library.is_file():
        stop(f"no simulator library at {choice}")
    chip = chip_of(choice)
    folder.mkdir()
    description = wheel / "tt_metal/soc_descriptors" / chip.description
    shutil.copy(description, folder / "soc_descriptor.yaml")
    (folder / chip.library).symlink_to(library)
    return folder / chip.library


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to fill")
    parser.add_argument(
        "--simulator", required=True, help="wolfpine, or the path of the vendor's simulator library"
    )
    arguments = parser.parse_args()
    picolibc = pathlib.Path("/usr/lib/picolibc/riscv64-unknown-elf")
    if shutil.which("riscv64-unknown-elf-g++") is None or not picolibc.is_dir():
        stop(f"needs Debian's cross compiler: apt-get install {' '.join(DEBIAN)}")
    out, wheel = arguments.out.resolve(), ttnn_folder()
    inputs = digest(arguments.simulator, wheel)
    if (out / "inputs").exists() and (out / "inputs").read_text() == inputs:
        print(f"already prepared: `. {out}/env.sh`")
        return
    for stale in out.glob("cache*"):  # ttnn's own check does not see the toolchain
        shutil.rmtree(stale)
    out.mkdir(parents=True, exist_ok=True)
    (out / "inputs").unlink(missing_ok=True)
    env = {
        "TT_METAL_SIMULATOR": str(simulator(arguments.simulator, wheel, out)),
        "TT_METAL_RUNTIME_ROOT": str(out / "root"),
        "TT_METAL_CACHE": str(out / "cache"),
        "TT_METAL_SLOW_DISPATCH_MODE": "1",
        "TT_METAL_DISABLE_SFPLOADMACRO": "1",
        "TT_METAL_LOGGER_LEVEL": "ERROR",
        "TT_STANDIN": str(out),
        "OMP_NUM_THREADS": "1",
    }
    runtime_root(wheel, out / "root")
    cxx_headers(out)
    support_objects(out / "root", out, env, chip_of(arguments.simulator))
    lines = (f"export {name}='{value}'\n" for name, value in env.items())
    (out / "env.sh").write_text("".join(lines))
    (out / "inputs").write_text(inputs)
    print(f"prepared {out}: `. {out}/env.sh`, then run any ttnn or TT-Lang program")


def digest(choice: str, wheel: pathlib.Path) -> str:
    """Of all that a prepared folder is made from."""
    found = hashlib.sha256(f"{choice} {wheel} {sys.executable} {HERE}".encode())
    for file in sorted([HERE / "prepare.py", *(HERE / "toolchain").rglob("*")]):
        if file.is_file() and "__pycache__" not in file.parts:
            found.update(file.read_bytes())
    return found.hexdigest() + "\n"


if __name__ == "__main__":
    main()
