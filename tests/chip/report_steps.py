"""The report on whole steps: small checkpoints, full sizes, and the real model.

Reads what runs have kept; types no number of its own. A part whose run is missing here stays as the
page has it, or says which command makes it; one whose sources have changed since says so.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, cast

from tests.chip import results, served
from tests.chip.environment import ROOT, WOLFPINE
from tests.chip.sources import Sources
from tests.chip.steps import driving
from tests.chip.steps.judging import TIE

Row = dict[str, Any]
MOST_NAMES = 8
"""Of files that changed since a run."""
WEIGHTS = ("bf16", "bfp8")
FULL_SIZES = {"E2B": "random-e2b", "E4B": "random-e4b"}
REAL = "gemma3-270m"
OUT = ROOT / "device_service/model/chip-steps.md"
INTRODUCTION = """\
# Whole steps on a simulated chip

Written by `make test-chip`, `chip-e2b`, `chip-e4b` and `chip-real-model`, each with `SIMULATOR=…`;
no number is typed by hand.

The whole decoder in TT-Lang kernels on the simulated chip (`device_service/model/tt_decoder.py`),
beside the reference in float32 (`reference.py` there), which reads the same tokens whatever the
device makes of them. PCC: Pearson's correlation; of a layer, its residual stream over a step's
rows; of logits, row by row; the lowest of all steps. Rounding alone: the same of the reference in
bfloat16 with weights as the device stores them. Best three: rows whose three best tokens are the
reference's in its order; ties are rows where the reference has the exchanged tokens nearer than
{tie:g} times what rounding alone moves a logit there (root mean square).
"""
FULL_SIZE_NOTE = """\
A decode row of one sequence; the keys and values before it are the reference's, put into the
caches. All else of the step is the device's own.
"""


def write() -> None:
    """Writes the page."""
    OUT.write_text(sections(OUT.read_text() if OUT.exists() else ""))
    print(f"wrote {OUT.relative_to(ROOT)}")


def sections(before: str = "") -> str:
    """In Markdown.

    Args:
        before: the page as it is, for the parts of which this machine has no run.
    """
    earlier = dict(re.findall(r"<!-- (\S+) -->\n(.*?)<!-- end -->\n", before, re.DOTALL))

    def part(key: str, text: str | None, command: str) -> str:
        text = text or earlier.get(key, f"Not run: `make {command}` makes it.\n")
        return f"<!-- {key} -->\n{text}<!-- end -->\n"

    return "\n".join(
        (
            INTRODUCTION.format(tie=TIE),
            "## Small checkpoints, the vendor's simulator\n",
            part("small-ttsim", _small("ttsim"), "test-chip SIMULATOR=…"),
            "## Small checkpoints, wolfpine\n",
            part("small-wolfpine", _small(WOLFPINE), "test-chip"),
            "## Full size, random weights\n\n" + FULL_SIZE_NOTE,
            part("E2B", _full_size("E2B"), "chip-e2b SIMULATOR=…"),
            part("E4B", _full_size("E4B"), "chip-e4b SIMULATOR=…"),
            "## The real Gemma 3 270M\n",
            part("served", _served(), "chip-real-model SIMULATOR=…"),
            part("text", _real_text(), "chip-real-model SIMULATOR=…"),
        )
    )


def _small(name: str) -> str | None:
    kept = cast("Row | None", results.read(f"steps-{name}"))
    if kept is None:
        return None
    current = results.scenario_sources()
    lines = [_small_line(row, current) for row in kept["rows"].values()]
    good = sum("error" not in row for row in kept["rows"].values())
    header = (
        "| model | weights | scenario | steps | rows | layer PCC | rounding alone | logits PCC "
        "| rounding alone | best three | ties | others | s | sources changed since |\n"
        + "|---" * 14
        + "|\n"
    )
    stale = Counter(_stale(row.get("sources", {}), current) for row in kept["rows"].values())
    said = f"{good} of {len(results.steps_for(name))} scenarios ran."
    said += "".join(
        f" Of {count} of them:{text.replace(' Since', ' since')}"
        for text, count in stale.items()
        if text
    )
    return f"{said}\n\n{header}{''.join(lines)}"


def _small_line(row: Row, current: Sources) -> str:
    names = row["name"].split("/")
    if "error" in row:
        error = row["error"][:120].replace("|", "/").replace("\n", " ")
        return f"| {' | '.join(names)} | failed: {error} |" + " |" * 10 + "\n"
    worst = min(row["layers"], key=lambda layer: layer["pcc"])
    logits = row["logits"]
    cells = [
        *names,
        str(row["steps"]),
        str(row["rows"]),
        f"{worst['pcc']:.6f} (layer {worst['layer']})",
        f"{worst['rounded_pcc']:.6f}",
        f"{logits['logits_pcc']:.6f}",
        f"{logits['rounded_logits_pcc']:.6f}",
        str(logits["same"]),
        _ties(logits),
        str(logits["others"]),
        f"{row['seconds']:.0f}",
        str(len(_changed(row.get("sources", {}), current))),
    ]
    return "| " + " | ".join(cells) + " |\n"


def _ties(logits: Row) -> str:
    if not logits["ties"]:
        return "0"
    return f"{logits['ties']} (to {logits['widest_tie']:.3f} of {logits['tie_width']:.3f})"


def _stale(sources: Sources, current: Sources) -> str:
    """What of the sources is another today, as a sentence."""
    changed = _changed(sources, current)
    if not changed:
        return ""
    if len(changed) > MOST_NAMES:
        return f" Since then {len(changed)} of its {len(current)} sources changed."
    return f" Since then {', '.join(f'`{name}`' for name in changed)} changed."


def _changed(sources: Sources, current: Sources) -> list[str]:
    names = sorted(set(sources) | set(current))
    return [name for name in names if sources.get(name) != current.get(name)]


def _full_size(size: str) -> str | None:
    runs = ((weights, driving.read(f"{FULL_SIZES[size]}-{weights}")) for weights in WEIGHTS)
    texts = [f"**{size}, {weights} weights.** {_whole(rows)}" for weights, rows in runs if rows]
    return "\n".join(texts) or None


def _whole(rows: list[Row]) -> str:
    """A run of whole_steps.py: a sentence a step, then a table of its layers."""
    about, rows = rows[0], rows[1:]
    said = [f"On {about['about']['simulator']}.{_stale(about['sources'], results.step_sources())}"]
    if rows and rows[-1].get("stage") != "done":
        said.append("Ended before its last row.")
    if about["held"]:
        said.append(f"At position {about['held']}.")
    for index, step in enumerate(about["steps"]):
        said.append(_whole_step(index, step["rows"], [r for r in rows if r.get("step") == index]))
    layers = [row for row in rows if "layer" in row]
    header = (
        "| step | layer | kind | PCC | worst row | rounding alone | MB read | MB written | s |\n"
        + "|---" * 9
        + "|\n"
    )
    return " ".join(said) + "\n\n" + header + "".join(map(_layer_line, layers))


def _whole_step(index: int, num_rows: int, rows: list[Row]) -> str:
    layers = [row for row in rows if "layer" in row]
    logits = next((row for row in rows if "logits_pcc" in row), None)
    if not layers:
        return f"Step {index} ({num_rows} rows): no layer ended."
    told = f"Step {index} ({num_rows} rows): {len(layers)} layers, PCC at least "
    told += f"{min(row['pcc'] for row in layers):.6f}"
    told += f" (rounding alone {min(row['rounded_pcc'] for row in layers):.6f})"
    if logits is not None:
        told += f"; logits {logits['logits_pcc']:.6f} ({logits['rounded_logits_pcc']:.6f})"
        told += f", best three the same in {logits['same']} rows, ties in {_ties(logits)}"
        told += f", others {logits['others']}"
    if all("dram_read" in row for row in rows):
        read, written = (sum(row[key] for row in rows) for key in ("dram_read", "dram_written"))
        told += f"; {read / 1e6:,.1f} MB read from DRAM and {written / 1e6:,.1f} written"
        told += ", counted by the simulator"
    return told + f"; {sum(row['seconds'] for row in rows):,.0f} s."


def _layer_line(row: Row) -> str:
    moved = [
        f"{row[key] / 1e6:.2f}" if key in row else "–" for key in ("dram_read", "dram_written")
    ]
    cells = [
        str(row["step"]),
        str(row["layer"]),
        row["kind"],
        f"{row['pcc']:.6f}",
        f"{row['row_pcc']:.6f}",
        f"{row['rounded_pcc']:.6f}",
        *moved,
        f"{row['seconds']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |\n"


def _real_text() -> str | None:
    rows = driving.read(f"{REAL}-bf16")
    if not rows:
        return None
    positions = rows[0]["steps"][0]["rows"]
    return f"A real text of {positions} positions, read as one chunk. {_whole(rows)}"


def _served() -> str | None:
    told = cast("Row | None", served.read(REAL))
    if told is None:
        return None
    ties = [x for x in told["choices"] if x["served"] != x["torch"] and x["gap"] <= x["tie_width"]]
    same = sum(x["served"] == x["torch"] for x in told["choices"])
    last = told["pieces"][-1]["seconds"] if told["pieces"] else 0.0
    answer = (told["prompt"] + told["text"]).replace("\n", "\n> ")
    stale = _stale(told["sources"], results.served_sources())
    said = f"""\
Served by gateway and device service, `--backend tt`, on {told["about"]["simulator"]}, greedy: \
{len(told["token_ids"])} tokens after {told["prompt_tokens"]}; {same} are those that the torch \
backend in bfloat16 chooses after the same beginning, {len(ties)} ties.{stale} \
Up after {told["start_seconds"]:,.0f} s, answered after {last:,.0f} s more.

> {answer}

"""
    for tie in ties:
        said += (
            f"Token {tie['served']} for torch's {tie['torch']}: {tie['gap']:.4f} apart, where "
            f"rounding makes {tie['tie_width']:.4f} a tie.\n\n"
        )
    return said
