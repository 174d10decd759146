"""What the doctor sees of a machine, what it says of it, and what refuses a start."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from device_service import doctor
from device_service.doctor import Check, board_of, checks, other_board, refusal, report, warnings
from device_service.machine import Card, Machine, look

WELL = Machine(
    python=(3, 12),
    versions={"tt-lang": "1.1.1", "ttnn": "0.69.0"},
    cards=(Card("/dev/tenstorrent/0", True, "p150a", "18.10.0.0"),),
    driver="2.4.1",
    huge_pages=1,
    huge_mount="/dev/hugepages-1G",
    compiler="/opt/tenstorrent/sfpi/compiler/bin/riscv-tt-elf-g++",
)
SIMULATED = dataclasses.replace(
    WELL,
    cards=(),
    driver="",
    huge_pages=0,
    huge_mount="",
    variables={"TT_METAL_SIMULATOR": "/sim/lib.so", "TT_METAL_SLOW_DISPATCH_MODE": "1"},
)


def states(found: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in found if check.state != "ok"}


@pytest.mark.parametrize("healthy", [WELL, SIMULATED])
def test_a_machine_with_all_that_is_needed_can_serve(healthy: Machine) -> None:
    found = checks(healthy)
    assert refusal(found) is None
    assert states(found) == {}
    assert list(report(found))[-1] == "can serve with --backend tt"


@pytest.mark.parametrize(
    ("base", "change", "name", "says"),
    [
        (WELL, {"python": (3, 11)}, "Python", "this is 3.11: TT-Lang is for 3.12 only"),
        (WELL, {"versions": {"ttnn": "0.69.0"}}, "tt-lang", "pip install tt-lang==1.1.1"),
        (WELL, {"versions": {"tt-lang": "1.1.1", "ttnn": "0.70.1"}}, "ttnn", "must be 0.69.*"),
        (WELL, {"versions": {"tt-lang": "1.2.0", "ttnn": "0.69.0"}}, "tt-lang", "must be 1.1.1"),
        (WELL, {"cards": ()}, "card", "there is none in /dev/tenstorrent"),
        (WELL, {"cards": (Card("/dev/tenstorrent/0", False),)}, "card", "may not read and write"),
        (WELL, {"cards": (), "driver": ""}, "card", "(1 more: python -m device_service doctor)"),
        (WELL, {"driver": "1.33.9"}, "driver", "needs tt-kmd 1.34.0"),
        (WELL, {"compiler": "", "compiler_sought": ("/a", "/b")}, "kernel compiler", "no /b"),
        (
            WELL,
            {"variables": {"TT_METAL_MOCK_CLUSTER_DESC_PATH": "p150.yaml"}},
            "TT_METAL_MOCK_CLUSTER_DESC_PATH",
            "computes nothing: unset it",
        ),
        (SIMULATED, {"missing_files": ("/sim/lib.so",)}, "simulated chip", "no /sim/lib.so"),
        (
            SIMULATED,
            {"variables": {"TT_METAL_SIMULATOR": "/sim/lib.so"}},
            "dispatch",
            "export TT_METAL_SLOW_DISPATCH_MODE=1",
        ),
    ],
)
def test_what_is_missing_refuses_a_start_in_one_line_with_what_to_do(
    base: Machine, change: dict[str, object], name: str, says: str
) -> None:
    found = checks(dataclasses.replace(base, **change))
    line = refusal(found)
    assert line is not None
    assert line.startswith(f"{name}: ")
    assert says in line
    assert "\n" not in line
    assert list(report(found))[-1].startswith("cannot serve: ")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"huge_pages": 0}, "huge pages"),
        ({"huge_mount": ""}, "huge pages"),
        ({"variables": {"TT_METAL_SLOW_DISPATCH_MODE": "1"}}, "dispatch"),
        ({"driver": ""}, "driver"),  # a container may show the card and not /sys
    ],
)
def test_what_cannot_be_sure_warns_and_refuses_nothing(
    change: dict[str, object], name: str
) -> None:
    found = checks(dataclasses.replace(WELL, **change))
    assert refusal(found) is None
    assert states(found) == {name: "warning"}
    assert warnings(found)[0].startswith(f"{name}: ")


def test_an_iommu_stands_in_for_huge_pages() -> None:
    card = Card("/dev/tenstorrent/0", True, has_iommu=True)
    found = checks(dataclasses.replace(WELL, cards=(card,), huge_pages=0, huge_mount=""))
    assert states(found) == {}


def of_kind(kind: str) -> Machine:
    return dataclasses.replace(WELL, cards=(Card("/dev/tenstorrent/0", True, kind),))


def simulated(path: str) -> Machine:
    variables = {**SIMULATED.variables, "TT_METAL_SIMULATOR": path}
    return dataclasses.replace(SIMULATED, variables=variables)


@pytest.mark.parametrize(
    ("machine", "board"),
    [
        (WELL, "p150"),
        (of_kind("n150 L"), "n150"),
        (of_kind("n300"), "n300"),
        (of_kind("p100a"), "p100"),
        (of_kind("p300a"), None),
        (of_kind(""), None),
        (dataclasses.replace(WELL, cards=()), None),
        (simulated("/lib/libttsim_bh.so"), "p150"),
        (simulated("/lib/libttsim_wh.so"), "n150"),
        (simulated("/release_wh/libttsim.so"), "n150"),
    ],
)
def test_the_board_is_the_one_that_is_opened(machine: Machine, board: str | None) -> None:
    assert board_of(machine) == board


def test_a_simulator_that_is_set_to_nothing_is_told() -> None:
    assert "set to nothing: unset it" in (refusal(checks(simulated(""))) or "")


@pytest.mark.parametrize(
    ("machine", "board", "problem"),
    [
        (WELL, "p150", None),
        (WELL, "n300", "/dev/tenstorrent/0 is a p150a: say --board p150, or leave it out"),
        (of_kind("p300a"), "n300", None),
        (of_kind("unknown"), "n300", None),
        (dataclasses.replace(WELL, cards=(Card("/dev/tenstorrent/0", True),)), "n300", None),
        (SIMULATED, "n300", None),
    ],
)
def test_a_plan_for_another_board_is_told(
    machine: Machine, board: str, problem: str | None
) -> None:
    assert other_board(machine, board) == problem


def put(root: Path, path: str, text: str = "") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_machine_is_seen_by_its_files(tmp_path: Path) -> None:
    put(tmp_path, "dev/tenstorrent/10")
    put(tmp_path, "dev/tenstorrent/2")
    put(tmp_path, "sys/class/tenstorrent/tenstorrent!2/tt_card_type", "n300\n")
    put(tmp_path, "sys/class/tenstorrent/tenstorrent!2/tt_fw_bundle_ver", "18.3.0.0\n")
    put(tmp_path, "sys/class/tenstorrent/tenstorrent!10/device/iommu_group/type", "DMA-FQ\n")
    put(tmp_path, "sys/module/tenstorrent/version", "2.9.0\n")
    put(tmp_path, "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "4\n")
    put(
        tmp_path,
        "proc/mounts",
        "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n"
        "hugetlbfs /dev/hugepages-1G hugetlbfs rw,relatime,pagesize=1024M 0 0\n",
    )
    compiler = put(tmp_path, "opt/tenstorrent/sfpi/compiler/bin/riscv-tt-elf-g++")
    compiler.chmod(0o755)
    found = look({"TT_METAL_CACHE": "/cache", "PATH": "/bin"}, tmp_path)
    assert found.cards == (
        Card("/dev/tenstorrent/2", True, "n300", "18.3.0.0", False),
        Card("/dev/tenstorrent/10", True, "", "", True),
    )
    assert (found.driver, found.huge_pages, found.huge_mount) == ("2.9.0", 4, "/dev/hugepages-1G")
    assert found.compiler == str(compiler)
    assert found.variables == {"TT_METAL_CACHE": "/cache"}


def test_an_empty_machine_is_seen_as_one(tmp_path: Path) -> None:
    found = look({"TT_METAL_RUNTIME_ROOT": str(tmp_path / "home")}, tmp_path)
    assert (found.cards, found.driver, found.huge_pages, found.huge_mount) == ((), "", 0, "")
    assert found.compiler == ""
    home = tmp_path / "home/runtime/sfpi/compiler/bin/riscv-tt-elf-g++"
    assert found.compiler_sought[0] == str(home)


@pytest.mark.parametrize(
    ("files", "named", "missing"),
    [
        (("lib.so", "soc_descriptor.yaml"), "lib.so", ()),
        (("lib.so",), "lib.so", ("soc_descriptor.yaml",)),
        ((), "lib.so", ("lib.so", "soc_descriptor.yaml")),
        (("chip/run.sh", "chip/soc_descriptor.yaml"), "chip", ()),
        (("chip/soc_descriptor.yaml",), "chip", ("chip/run.sh",)),
    ],
)
def test_a_simulated_chip_is_seen_by_its_files(
    tmp_path: Path, files: tuple[str, ...], named: str, missing: tuple[str, ...]
) -> None:
    for file in files:
        put(tmp_path, file)
    found = look({"TT_METAL_SIMULATOR": str(tmp_path / named)}, tmp_path)
    assert found.missing_files == tuple(str(tmp_path / file) for file in missing)


def test_the_command_prints_all_and_its_exit_code_says_whether_it_could_serve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "look", lambda environ: WELL)
    assert doctor.main([]) == 0
    assert "tt-kmd 2.4.1" in capsys.readouterr().out
    broken = dataclasses.replace(WELL, cards=())
    monkeypatch.setattr(doctor, "look", lambda environ: broken)
    assert doctor.main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["can_serve"] is False
    assert {"name": "card", "state": "missing"}.items() <= told["checks"][3].items()
    assert doctor.main(["--colour"]) == 2
