"""What a machine offers to TT-Lang's runtime, as seen from outside: files, versions, variables.

Opens no device and imports no ttnn, so that it can be asked before either is possible. Knows where
the driver, the kernel and the wheels keep what they tell; what of it is enough is for `doctor`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("tt-lang", "ttnn")
_VARIABLES = re.compile(r"(TT_METAL|TTNN|TTLANG)_\w+")
_COMPILER = "compiler/bin/riscv-tt-elf-g++"


@dataclass(frozen=True, slots=True)
class Card:
    """One card, as its driver tells of it; empty where it tells nothing."""

    path: str
    """Such as "/dev/tenstorrent/0"."""
    is_usable: bool
    """Whether this user may read and write it."""
    kind: str = ""
    """Such as "p150a"."""
    firmware: str = ""
    """The bundle's version."""
    has_iommu: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found."""

    python: tuple[int, int]
    versions: Mapping[str, str]
    """Of those of `PACKAGES` that are installed."""
    cards: tuple[Card, ...] = ()
    driver: str = ""
    """Its version; empty where it is not loaded."""
    huge_pages: int = 0
    """Of 1 GiB, as the kernel holds them."""
    huge_mount: str = ""
    """Where pages of 1 GiB are mounted."""
    compiler: str = ""
    """The vendor's compiler of kernels, or what stands in for it."""
    compiler_sought: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    """All that ttnn and TT-Lang read."""
    missing_files: tuple[str, ...] = ()
    """Of the simulated chip that TT_METAL_SIMULATOR names."""


def look(environ: Mapping[str, str], root: Path = Path("/")) -> Machine:
    """Looks at this machine.

    Args:
        environ: the variables to go by.
        root: where its files begin.
    """
    variables = {name: environ[name] for name in sorted(environ) if _VARIABLES.fullmatch(name)}
    sought = _compilers(variables, root)
    simulator = variables.get("TT_METAL_SIMULATOR")
    return Machine(
        python=sys.version_info[:2],
        versions=_versions(),
        cards=tuple(_cards(root)),
        driver=_text(root / "sys/module/tenstorrent/version"),
        huge_pages=int(_text(root / _HUGE_PAGES) or 0),
        huge_mount=_huge_mount(_text(root / "proc/mounts")),
        compiler=next((str(path) for path in sought if os.access(path, os.X_OK)), ""),
        compiler_sought=tuple(map(str, sought)),
        variables=variables,
        missing_files=_missing_files(Path(simulator)) if simulator else (),
    )


_HUGE_PAGES = "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cards(root: Path) -> list[Card]:
    folder = root / "dev/tenstorrent"
    nodes = folder.glob("[0-9]*") if folder.is_dir() else ()
    return [_card(node, root) for node in sorted(nodes, key=lambda node: (len(node.name), node))]


def _card(node: Path, root: Path) -> Card:
    told = root / f"sys/class/tenstorrent/tenstorrent!{node.name}"
    return Card(
        f"/dev/tenstorrent/{node.name}",
        os.access(node, os.R_OK | os.W_OK),
        _text(told / "tt_card_type"),
        _text(told / "tt_fw_bundle_ver"),
        _text(told / "device/iommu_group/type").startswith("DMA"),
    )


def _huge_mount(mounts: str) -> str:
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "hugetlbfs" and "pagesize=1024M" in fields[3]:
            return fields[1]
    return ""


def _compilers(variables: Mapping[str, str], root: Path) -> list[Path]:
    """Where ttnn looks, in its order."""
    homes = [Path(variables[x]) for x in ("TT_METAL_RUNTIME_ROOT",) if x in variables]
    if not homes:
        try:
            spec = importlib.util.find_spec("ttnn")
        except (ImportError, ValueError):
            spec = None
        homes = [Path(x) for x in (spec.submodule_search_locations or ())] if spec else []
    return [
        *(home / "runtime/sfpi" / _COMPILER for home in homes),
        root / "opt/tenstorrent/sfpi" / _COMPILER,
    ]


def _missing_files(simulator: Path) -> tuple[str, ...]:
    """A library has its chip's description beside it; a folder has it inside, and a program."""
    if simulator.suffix == ".so":
        wanted = (simulator, simulator.parent / "soc_descriptor.yaml")
    else:
        wanted = (simulator / "run.sh", simulator / "soc_descriptor.yaml")
    return tuple(str(path) for path in wanted if not path.exists())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
