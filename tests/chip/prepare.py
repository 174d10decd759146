#!/usr/bin/env python3
"""Prepares a folder in which ttnn and TT-Lang run compiled kernels on a simulated Blackhole.

Needs neither a card nor the vendor's kernel compiler:

    python prepare.py --out DIR --simulator wolfpine            # or the vendor's libttsim_bh.so
    . DIR/env.sh

in the Python 3.12 environment with tt-lang 1.1.1 and wolfpine 2.2.

Knows the layout of the ttnn wheel and of Debian's cross compiler; knows nothing of kernels.
Idempotent.
"""

import argparse
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "toolchain"))
import patches  # noqa: E402

DEBIAN = ["gcc-riscv64-unknown-elf", "binutils-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf"]
CXX_HEADERS = "libstdc++-arm-none-eabi-dev"  # headers only, the target does not matter
SUPPORT_SOURCES = [
    "toolchain/substitutes.cpp",
    "firmware/src/tt-1xx/blackhole/noc.c",
    "firmware/src/tt-1xx/tdma_xmov.c",
]


def stop(message: str) -> None:
    sys.exit(f"prepare: {message}")


def ttnn_folder() -> pathlib.Path:
    spec = importlib.util.find_spec("ttnn")
    if spec is None or not spec.submodule_search_locations:
        stop(
            "ttnn is not installed in this Python;"
            " use the 3.12 environment with `pip install tt-lang==1.1.1`"
        )
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
    patches.for_gcc_12(root / "tt_metal/hw")
    patches.for_gcc_12(root / "tt_metal/tt-llk")
    patches.multicast_increments_as_unicasts(root / "tt_metal/hw")
    patches.without_the_32_bit_dst_workaround(root / "tt_metal/tt-llk")
    patches.typecast_to_bf16_in_32_bit_dst(root / "tt_metal/tt-llk")
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
        reason = got.stderr.strip().splitlines()[-1:] or "run apt-get update"
        stop(f"could not get {CXX_HEADERS}: {reason}")
    subprocess.run(["dpkg-deb", "-x", debs[0], work / "x"], check=True)
    newest = sorted((work / "x/usr/include").rglob("c++/*/vector"))[-1].parent
    shutil.copytree(newest, out / "cxx")
    shutil.rmtree(work)


def support_objects(root: pathlib.Path, out: pathlib.Path, env: dict[str, str]) -> None:
    hw = root / "tt_metal/hw"
    inc = [
        root / "tt_metal",
        hw / "inc",
        root / "tt_metal/hostdevcommon/api",
        root / "tt_metal/api",
        hw / "inc/internal/tt-1xx",
    ]
    board = hw / "inc/internal/tt-1xx/blackhole"
    inc += [
        board,
        board / "blackhole_defines",
        board / "noc",
        root / "tt_metal/tt-llk/tt_llk_blackhole/common/inc",
        hw / "firmware/src/tt-1xx",
    ]
    for cpu in ("tt-bh", "tt-bh-tensix"):
        (out / "lib" / cpu).mkdir(parents=True, exist_ok=True)
        for source in SUPPORT_SOURCES:
            target = out / "lib" / cpu / (pathlib.Path(source).stem + ".o")
            command = [
                root / "runtime/sfpi/compiler/bin/riscv-tt-elf-g++",
                f"-mcpu={cpu}",
                "-std=c++17",
                "-Os",
                "-flto=auto",
                "-fno-exceptions",
                "-x",
                "c++",
            ]
            command += [
                "-DARCH_BLACKHOLE",
                "-DTENSIX_FIRMWARE",
                "-DLOCAL_MEM_EN=0",
                "-DCOMPILE_FOR_BRISC",
                *[f"-I{i}" for i in inc],
                "-c",
                hw / source,
                "-o",
                target,
            ]
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
    folder.mkdir()
    shutil.copy(
        wheel / "tt_metal/soc_descriptors/blackhole_140_arch.yaml", folder / "soc_descriptor.yaml"
    )
    (folder / "libttsim_bh.so").symlink_to(library)
    return folder / "libttsim_bh.so"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to fill")
    parser.add_argument(
        "--simulator", required=True, help="wolfpine, or the path of the vendor's simulator library"
    )
    arguments = parser.parse_args()
    if (
        shutil.which("riscv64-unknown-elf-g++") is None
        or not pathlib.Path("/usr/lib/picolibc/riscv64-unknown-elf").is_dir()
    ):
        stop(f"needs Debian's cross compiler: apt-get install {' '.join(DEBIAN)}")
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    wheel = ttnn_folder()
    chosen = simulator(arguments.simulator, wheel, out)
    env = {
        "TT_METAL_SIMULATOR": str(chosen),
        "TT_METAL_RUNTIME_ROOT": str(out / "root"),
        "TT_METAL_CACHE": str(
            out / f"cache-{'wolfpine' if arguments.simulator == 'wolfpine' else 'library'}"
        ),
        "TT_METAL_SLOW_DISPATCH_MODE": "1",
        "TT_METAL_DISABLE_SFPLOADMACRO": "1",
        "TT_METAL_LOGGER_LEVEL": "ERROR",
        "TT_STANDIN": str(out),
        "OMP_NUM_THREADS": "1",
    }
    runtime_root(wheel, out / "root")
    cxx_headers(out)
    support_objects(out / "root", out, env)
    (out / "env.sh").write_text(
        "".join(f"export {name}='{value}'\n" for name, value in env.items())
    )
    print(f"prepared {out}: `. {out}/env.sh`, then run any ttnn or TT-Lang program")


if __name__ == "__main__":
    main()
