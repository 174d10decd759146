"""Writes kernels/chip-report.md from the rows of runs on simulated chips.

    python -m tests.chip.report

Every number comes from a run: rows kept by make test-chip (tests.chip.results), and bytes counted
transfer by transfer in the functional simulator (tests.kernels.traffic). Types none of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kernels import runtime

runtime.choose("sim")

from tests.chip import report_steps, results  # noqa: E402
from tests.chip.environment import ROOT, WOLFPINE  # noqa: E402
from tests.kernels.case import Case, all_cases  # noqa: E402

OUT = ROOT / "kernels/chip-report.md"
HEAD = """\
# Kernels on a simulated chip

Written by `make test-chip SIMULATOR=…`; no number is typed by hand. Compiled by TT-Lang {tt_lang},
run by ttnn {ttnn}.

- vendor's simulator: {ttsim}, sha256 `{sha256}`
- wolfpine: {wolfpine}
- vendor's Wormhole: {wormhole}

Error: the largest difference from float32 torch, in bf16 roundings of the largest value of its
output row. Seconds: the first call, compiling included, on a machine that also did other things;
they tell nothing of a card. DRAM: bytes counted in the functional simulator, and over the least
possible. Same bits: whether both simulators, which share no code, gave the same output.

{summary}
"""
COLUMNS = (
    "kernel", "case", "shapes", "nodes", "error", "bound", "s, vendor's", "s, wolfpine",
    "same bits", "error, Wormhole", "MB read", "over least", "MB written",
)  # fmt: skip


def main() -> None:
    report_steps.write()
    vendor, wolfpine, wormhole = (results.read(name) for name in ("ttsim", WOLFPINE, "wormhole"))
    if vendor is None:
        print(f"{OUT.relative_to(ROOT)} stays: make test-chip SIMULATOR=… makes its rows")
        return
    if wolfpine and wolfpine["sources"] != vendor["sources"]:
        wolfpine = None
    if wormhole and wormhole["sources"] != vendor["sources"]:
        wormhole = None
    theirs = wolfpine["rows"] if wolfpine else {}
    elsewhere = wormhole["rows"] if wormhole else {}
    table = {case.name: case for case in all_cases()}
    bytes_of = traffic([name for name, row in vendor["rows"].items() if "error" not in row])
    lines: dict[str, list[str]] = {"small": [], "full": []}
    for name, case in table.items():
        ran = (rows.get(name) for rows in (vendor["rows"], theirs, elsewhere, bytes_of))
        lines[case.size].append(line(case, *ran))
    about = vendor["about"]
    text = HEAD.format(
        tt_lang=about["tt-lang"],
        ttnn=about["ttnn"],
        ttsim=about["simulator"],
        sha256=about["sha256"],
        wolfpine=wolfpine["about"]["simulator"] if wolfpine else "not run from these sources",
        wormhole=f"sha256 `{wormhole['about']['sha256']}`"
        if wormhole
        else "not run from these sources",
        summary=summary(table, vendor["rows"], theirs),
    )
    header = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n"
    text += "\n## True sizes\n\n" + header + "".join(lines["full"])
    text += "\n## Small shapes with hard values\n\n" + header + "".join(lines["small"])
    OUT.write_text(text)
    print(f"wrote {OUT.relative_to(ROOT)}")


def summary(table: dict[str, Case], rows: results.Rows, theirs: results.Rows) -> str:
    """What the tables say in a sentence."""
    ran = {name: row for name, row in rows.items() if "error" not in row and name in table}
    good = sum(row["roundings"] <= table[name].roundings for name, row in ran.items())
    both = [name for name in ran if "digest" in theirs.get(name, {})]
    same = sum(ran[name]["digest"] == theirs[name]["digest"] for name in both)
    full = [name for name in ran if table[name].size == "full"]
    return (
        f"{len(ran)} cases of {len({table[name].kernel for name in ran})} kernels ran on the "
        f"vendor's simulator ({len(full)} at true sizes), {good} within their bound; "
        f"{len(both)} ran on both simulators, {same} with the same bits."
    )


def line(case: Case, row: Any, wolfpine: Any, wormhole: Any, moved: Any) -> str:
    """A row of the report."""
    nodes = f"{case.grid[0]} × {case.grid[1]}"
    cells = [case.kernel, case.name.removeprefix(f"{case.kernel}-"), case.shapes, nodes]
    if row is None or "error" in row:
        why = case.refused.get("ttsim") if row is None else row["error"][:80].replace("|", "/")
        cells += [f"not run: {why}", f"{case.roundings:g}", "–"]
    else:
        cells += [f"{row['roundings']:.2f}", f"{case.roundings:g}", f"{row['seconds']:.1f}"]
    if wolfpine and "digest" in wolfpine:
        same = bool(row) and row.get("digest") == wolfpine["digest"]
        cells += [f"{wolfpine['seconds']:.1f}", "yes" if same else "**no**"]
    else:
        why = case.refused.get(WOLFPINE) or ("too large" if case.size == "full" else "not run")
        cells += ["–", why]
    if wormhole:
        cells.append(f"{wormhole['roundings']:.2f}" if "roundings" in wormhole else "failed")
    else:
        cells.append("–")
    if moved:
        read, written = moved["dram_read_bytes"] / 1e6, moved["dram_written_bytes"] / 1e6
        cells += [f"{read:.3f}", f"{moved['read_ratio']:.3f}", f"{written:.3f}"]
    else:
        cells += ["–"] * 3
    return "| " + " | ".join(cells) + " |\n"


def traffic(names: list[str]) -> dict[str, Any]:
    """The accounts of cases, kept until a source changes; each size counted in its own process."""
    kept_at = results.CACHE / "traffic.json"
    sources = results.depends_on(WOLFPINE)
    kept = json.loads(kept_at.read_text()) if kept_at.exists() else {}
    found = kept["rows"] if kept.get("depends_on") == sources else {}
    left = [name for name in names if name not in found]
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for size in ("small", "full") if left else ():
            out = Path(folder) / f"{size}.json"
            command = [sys.executable, "-m", "tests.kernels.traffic", "--size", size, "--json", out]
            process = subprocess.Popen([*command, *left], cwd=ROOT, stdout=subprocess.DEVNULL)
            running.append((out, process))
        for out, process in running:
            if process.wait() == 0:
                found |= {row["name"]: row for row in json.loads(out.read_text())}
    kept_at.write_text(json.dumps({"depends_on": sources, "rows": found}, indent=1) + "\n")
    return {name: found[name] for name in names if name in found}


if __name__ == "__main__":
    main()
