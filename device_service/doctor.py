"""`python -m device_service doctor`: what `--backend tt` needs here, and what of it is missing.

The same checks refuse a start at once, before a model is read. Pure: judges what `machine` has
found; knows no model and opens no device. What a check cannot be sure of is a warning, and does
not refuse.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device_service.machine import Machine, look

PYTHON = (3, 12)
TT_LANG = "1.1.1"
TTNN = "0.69"
"""Its first two numbers: the API moved in later ones."""
BOARDS = ("p150", "p100", "n150", "n300")
"""Those with a plan, as drivers begin their names; the first where nothing tells."""
DRIVER = (1, 34, 0)
"""The oldest that ttnn's driver library takes."""
HELP = """\
usage: python -m device_service doctor [--json]

Says what --backend tt needs of this machine, a card or a simulated chip, and what is missing.
Exit code 1 if it could not serve."""

State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    todo: str = ""
    """What to do, where it is not ok."""


def checks(machine: Machine) -> list[Check]:
    """All that can be said of a machine."""
    found = [_python(machine), _tt_lang(machine), _ttnn(machine), *_modes(machine)]
    if "TT_METAL_SIMULATOR" in machine.variables:
        found += _simulator(machine)
    else:
        found += [*_cards(machine), _driver(machine), _huge_pages(machine), *_dispatch(machine)]
    return [*found, _compiler(machine), _variables(machine)]


def refusal(found: Sequence[Check]) -> str | None:
    """The first thing that is missing, in one line; None where nothing is."""
    missing = [check for check in found if check.state == "missing"]
    if not missing:
        return None
    first = missing[0]
    more = f" ({len(missing) - 1} more: python -m device_service doctor)" if missing[1:] else ""
    return f"{first.name}: {first.found}: {first.todo}{more}"


def board_of(machine: Machine) -> str | None:
    """The board that will be opened, the first; None where nothing tells, or it is another kind."""
    if simulator := machine.variables.get("TT_METAL_SIMULATOR"):
        path = Path(simulator)
        is_wormhole = "_wh" in path.name or path.parent.name.endswith("_wh")
        return "n150" if is_wormhole else "p150"
    kind = machine.cards[0].kind if machine.cards else ""
    return next((board for board in BOARDS if kind.startswith(board)), None)


def board_to_plan_for(machine: Machine) -> str:
    """The board that will be opened; the usual one where nothing tells."""
    return board_of(machine) or BOARDS[0]


def other_board(machine: Machine, board: str) -> str | None:
    """Why a plan for this board is none for the card that is there; None where it is, or may be."""
    there = board_of(machine)
    if there in (None, board) or "TT_METAL_SIMULATOR" in machine.variables:
        return None
    card = machine.cards[0]
    return f"{card.path} is a {card.kind}: say --board {there}, or leave it out"


def warnings(found: Sequence[Check]) -> list[str]:
    """What may be why a device does not open, one line each."""
    return [f"{x.name}: {x.found}: {x.todo}" for x in found if x.state == "warning"]


def report(found: Sequence[Check]) -> Iterator[str]:
    """For people, a line a check, and one at the end."""
    for check in found:
        yield f"{check.state:<8}{check.name:<18}{check.found}"
        if check.todo:
            yield f"{'':<8}{'':<18}→ {check.todo}"
    missing = sum(check.state == "missing" for check in found)
    yield f"cannot serve: {missing} missing" if missing else "can serve with --backend tt"


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns the exit code."""
    if set(arguments) - {"--json"}:
        print(HELP)
        return 0 if set(arguments) <= {"-h", "--help"} else 2
    found = checks(look(os.environ))
    if "--json" in arguments:
        rows = [{"name": x.name, "state": x.state, "found": x.found, "todo": x.todo} for x in found]
        print(json.dumps({"can_serve": refusal(found) is None, "checks": rows}))
    else:
        print("\n".join(report(found)))
    return 1 if refusal(found) else 0


# --- one check each -----------------------------------------------------------------------------


def _python(machine: Machine) -> Check:
    found = ".".join(map(str, machine.python))
    if machine.python == PYTHON:
        return Check("Python", "ok", f"{found}, {sys.executable}")
    return Check(
        "Python", "missing", f"this is {found}", "TT-Lang is for 3.12 only: use .venv-tt/bin/python"
    )


def _tt_lang(machine: Machine) -> Check:
    return _package(machine, "tt-lang", TT_LANG, machine.versions.get("tt-lang") == TT_LANG)


def _ttnn(machine: Machine) -> Check:
    is_right = machine.versions.get("ttnn", "").split(".")[:2] == TTNN.split(".")
    return _package(machine, "ttnn", f"{TTNN}.*", is_right)


def _package(machine: Machine, name: str, wanted: str, is_right: bool) -> Check:
    found = machine.versions.get(name)
    if is_right and found:
        return Check(name, "ok", found)
    said = f"this is {found}, and it must be {wanted}" if found else "not installed"
    return Check(name, "missing", said, f"pip install tt-lang=={TT_LANG} (brings ttnn {TTNN})")


def _modes(machine: Machine) -> Iterator[Check]:
    """Variables under which kernels do not run, or not on what is meant."""
    nothing_runs = {
        "TT_METAL_MOCK_CLUSTER_DESC_PATH": "a mock card computes nothing",
        "TTLANG_COMPILE_ONLY": "kernels are compiled and not run",
        "TT_METAL_NULL_KERNELS": "kernels are empty",
    }
    for name, why in nothing_runs.items():
        if machine.variables.get(name) not in (None, "", "0"):
            yield Check(name, "missing", f"it is set, so {why}", "unset it")


def _simulator(machine: Machine) -> Iterator[Check]:
    path = machine.variables["TT_METAL_SIMULATOR"]
    if not path:
        yield Check("simulated chip", "missing", "TT_METAL_SIMULATOR is set to nothing", "unset it")
        return
    prepare = "make demo BACKEND=tt SIMULATOR=… or tests/chip/prepare.py prepares one"
    if machine.missing_files:
        said = f"there is no {machine.missing_files[0]}"
        yield Check("simulated chip", "missing", said, prepare)
    else:
        yield Check(
            "simulated chip", "ok", f"{path}; card, driver and huge pages are not asked for"
        )
    if machine.variables.get("TT_METAL_SLOW_DISPATCH_MODE") != "1":
        said = "a simulated chip has no fast dispatch"
        yield Check("dispatch", "missing", said, "export TT_METAL_SLOW_DISPATCH_MODE=1")


def _cards(machine: Machine) -> Iterator[Check]:
    if not machine.cards:
        yield Check(
            "card",
            "missing",
            "there is none in /dev/tenstorrent, and no simulated chip",
            "load the driver (tt-kmd), or name a simulated chip in TT_METAL_SIMULATOR",
        )
    for card in machine.cards:
        told = ", ".join(x for x in (card.kind, card.firmware and f"firmware {card.firmware}") if x)
        said = f"{card.path}: {told or 'its driver tells neither kind nor firmware'}"
        if card.is_usable:
            yield Check("card", "ok", said)
        else:
            todo = "this user may not read and write it: see its owner, group and udev rules"
            yield Check("card", "missing", said, todo)


def _dispatch(machine: Machine) -> Iterator[Check]:
    if machine.variables.get("TT_METAL_SLOW_DISPATCH_MODE"):
        said = "TT_METAL_SLOW_DISPATCH_MODE is set, so no step is traced: slow on a card"
        yield Check("dispatch", "warning", said, "unset it")


def _driver(machine: Machine) -> Check:
    wanted = ".".join(map(str, DRIVER))
    if not machine.driver:
        # In a container without /sys there may be a card nevertheless.
        state: State = "warning" if machine.cards else "missing"
        todo = (
            "install tt-kmd from https://github.com/tenstorrent/tt-kmd, then modprobe tenstorrent"
        )
        return Check("driver", state, "no /sys/module/tenstorrent/version", todo)
    numbers = tuple(int(x) for x in machine.driver.split("-")[0].split(".") if x.isdecimal())
    if numbers < DRIVER:
        return Check("driver", "missing", machine.driver, f"ttnn {TTNN} needs tt-kmd {wanted}")
    return Check("driver", "ok", f"tt-kmd {machine.driver}")


def _huge_pages(machine: Machine) -> Check:
    name, cards = "huge pages", machine.cards
    said = f"{machine.huge_pages} of 1 GiB, mounted at {machine.huge_mount or 'nowhere'}"
    if cards and all(card.has_iommu for card in cards):
        return Check(name, "ok", f"{said}; not needed, the IOMMU is on")
    if machine.huge_pages >= max(1, len(cards)) and machine.huge_mount:
        return Check(name, "ok", said)
    todo = "one for each card, and /dev/hugepages-1G mounted (tt-system-tools does it), or an IOMMU"
    return Check(name, "warning", said, todo)


def _compiler(machine: Machine) -> Check:
    if machine.compiler:
        return Check("kernel compiler", "ok", machine.compiler)
    return Check(
        "kernel compiler",
        "missing",
        f"no {' and no '.join(machine.compiler_sought)}",
        "python -m ttnn.download_sfpi brings the vendor's; without it, tests/chip/prepare.py",
    )


def _variables(machine: Machine) -> Check:
    said = ", ".join(f"{name}={value}" for name, value in machine.variables.items())
    return Check("variables", "ok", said or "none of TT_METAL_…, TTNN_…, TTLANG_…")
