"""Writes kernels/chip-report.md from the rows of runs on simulated chips.

    python -m tests.chip.report

Every number comes from a run: rows kept by make test-chip (tests.chip.results), and bytes counted
transfer by transfer in the functional simulator (tests.kernels.traffic). Types none of its own. A
case that has no row here keeps its line of the page, as one of an earlier run.
"""

from __future__ import annotations

import json
import re
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
    table = {case.name: case for case in all_cases()}
    theirs, elsewhere = (of_the_same(kept, vendor["rows"]) for kept in (wolfpine, wormhole))
    ran = (name for name, row in vendor["rows"].items() if "error" not in row)
    bytes_of = traffic([table[name] for name in ran if name in table])
    before = earlier_lines(OUT.read_text() if OUT.exists() else "")
    lines: dict[str, list[str]] = {"small": [], "full": []}
    num_kept = 0
    for name, case in table.items():
        told = (rows.get(name) for rows in (vendor["rows"], theirs, elsewhere, bytes_of))
        kept = None if "roundings" in vendor["rows"].get(name, {}) else before.get(key(case))
        num_kept += kept is not None
        lines[case.size].append(kept or line(case, *told))
    about = vendor["about"]
    text = HEAD.format(
        tt_lang=about["tt-lang"],
        ttnn=about["ttnn"],
        ttsim=about["simulator"],
        sha256=about["sha256"],
        wolfpine=wolfpine["about"]["simulator"]
        if wolfpine and theirs
        else "not run from these sources",
        wormhole=f"sha256 `{wormhole['about']['sha256']}`"
        if wormhole and elsewhere
        else "not run from these sources",
        summary=summary(table, vendor["rows"], theirs, num_kept),
    )
    header = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n"
    text += "\n## True sizes\n\n" + header + "".join(lines["full"])
    text += "\n## Small shapes with hard values\n\n" + header + "".join(lines["small"])
    OUT.write_text(text)
    print(f"wrote {OUT.relative_to(ROOT)}")


def of_the_same(kept: dict[str, Any] | None, vendor: results.Rows) -> results.Rows:
    """The rows of another simulator that are of the same sources as the vendor's."""
    rows: results.Rows = kept["rows"] if kept else {}
    same = (name for name in rows if name in vendor)
    return {n: rows[n] for n in same if rows[n].get("sources") == vendor[n].get("sources")}


Key = tuple[str, ...]
"""Of a line: kernel, case, shapes and nodes."""


def key(case: Case) -> Key:
    """The first cells of a case's line."""
    label = case.name.removeprefix(f"{case.kernel}-")
    return case.kernel, label, case.shapes, f"{case.grid[0]} × {case.grid[1]}"


def earlier_lines(page: str) -> dict[Key, str]:
    """Lines of cases that ran once, each with its error marked."""
    found: dict[Key, str] = {}
    for text in page.splitlines():
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if len(cells) == len(COLUMNS) and re.fullmatch(r"\d+\.\d\d\*?", cells[4]):
            cells[4] = cells[4].rstrip("*") + "*"
            found[tuple(cells[:4])] = "| " + " | ".join(cells) + " |\n"
    return found


def summary(table: dict[str, Case], rows: results.Rows, theirs: results.Rows, num_kept: int) -> str:
    """What the tables say in a sentence."""
    ran = {name: row for name, row in rows.items() if "error" not in row and name in table}
    good = sum(row["roundings"] <= table[name].roundings for name, row in ran.items())
    both = [name for name in ran if "digest" in theirs.get(name, {})]
    same = sum(ran[name]["digest"] == theirs[name]["digest"] for name in both)
    full = [name for name in ran if table[name].size == "full"]
    earlier = num_kept + sum(is_earlier(table[name], row) for name, row in ran.items())
    since = f" Marked *: {earlier} lines of earlier sources or runs." if earlier else ""
    return (
        f"{len(ran)} cases of {len({table[name].kernel for name in ran})} kernels ran on the "
        f"vendor's simulator ({len(full)} at true sizes), {good} within their bound; "
        f"{len(both)} ran on both simulators, {same} with the same bits.{since}"
    )


def is_earlier(case: Case, row: Any) -> bool:
    """Whether a row is of other sources than today's."""
    return row.get("sources") != results.case_sources(case)


def line(case: Case, row: Any, wolfpine: Any, wormhole: Any, moved: Any) -> str:
    """A row of the report."""
    cells = [*key(case)]
    if row is None or "error" in row:
        why = case.refused.get("ttsim") if row is None else row["error"][:80].replace("|", "/")
        cells += [f"not run: {why}", f"{case.roundings:g}", "–"]
    else:
        mark = "*" if is_earlier(case, row) else ""
        cells += [f"{row['roundings']:.2f}{mark}", f"{case.roundings:g}", f"{row['seconds']:.1f}"]
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


def traffic(cases: list[Case]) -> dict[str, Any]:
    """The accounts of cases, kept until a source changes; each size counted in its own process."""
    kept_at = results.CACHE / "traffic.json"
    found = json.loads(kept_at.read_text())["rows"] if kept_at.exists() else {}
    sources = {case.name: results.account_sources(case) for case in cases}
    left = [n for n, source in sources.items() if found.get(n, {}).get("sources") != source]
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for size in ("small", "full") if left else ():
            out = Path(folder) / f"{size}.json"
            command = [sys.executable, "-m", "tests.kernels.traffic", "--size", size, "--json", out]
            process = subprocess.Popen([*command, *left], cwd=ROOT, stdout=subprocess.DEVNULL)
            running.append((out, process))
        for out, process in running:
            if process.wait() == 0:
                found |= {
                    row["name"]: row | {"sources": sources[row["name"]]}
                    for row in json.loads(out.read_text())
                    if row["name"] in sources
                }
    kept_at.write_text(json.dumps({"rows": found}, indent=1) + "\n")
    return {name: found[name] for name in sources if name in found}


if __name__ == "__main__":
    main()
