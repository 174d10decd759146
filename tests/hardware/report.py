"""The report of `make test-hardware`: what was found, as a page to send. Knows no device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MIN_LAYER_PCC = {"bf16": 0.999, "bfp8": 0.995, "mixed": 0.0}
"""Below these a model failed; mixed weights have no gate."""
MIN_LOGITS_PCC = {"bf16": 0.998, "bfp8": 0.99, "mixed": 0.0}

Found = dict[str, Any]

SIMULATED = """\
**Simulated.** A simulated chip stood in for a card. This shows that the program runs to its end and
that the numbers of kernels and models are right; of speed and bandwidth it tells **nothing**.
"""


def doctor_lines(doctor: Found) -> str:
    """The checks, a line each."""
    lines = [
        f"{x['state']:<8}{x['name']:<18}{x['found']}" + (f" → {x['todo']}" if x["todo"] else "")
        for x in doctor["checks"]
    ]
    return "\n".join(lines)


def failures(found: Found) -> list[str]:
    """What was wrong, a line each."""
    lines = []
    for name, row in found["kernels"].items():
        if "error" in row:
            lines.append(f"kernel {name}: {row['error']}")
        elif row["roundings"] > row["bound"]:
            lines.append(f"kernel {name}: {row['roundings']:.2f} roundings, bound {row['bound']}")
    for row in found["models"]:
        name = f"model {row['model']}, {row['precision']}"
        if row["error"]:
            lines.append(f"{name}: {row['error']}")
        elif "unfit" not in row:
            lines += [f"{name}: {what}" for what in _far(row)]
    return lines


def _far(row: Found) -> Iterator[str]:
    """What of a model is farther from the reference than it may be; NaN is."""
    least, precision = _worst(row["layer_pcc"]), row["precision"]
    if not least >= MIN_LAYER_PCC[precision]:
        yield f"a layer's PCC is {least:.5f}"
    if not row["logits_pcc"] >= MIN_LOGITS_PCC[precision]:
        yield f"the logits' PCC is {row['logits_pcc']:.5f}"


def _worst(values: list[float]) -> float:
    """The least; NaN is less than all."""
    return min(values, key=lambda value: (value == value, value))


def markdown(found: Found) -> str:
    """The page."""
    parts = [
        f"# Tessera on a {'simulated ' if found['simulated'] else ''}{found['board']}\n",
        SIMULATED if found["simulated"] else "",
        f"```\n{doctor_lines(found['doctor'])}\n```\n",
        "## What was wrong\n",
        "\n".join(f"- {line}" for line in failures(found)) or "Nothing.",
        "\n## Models\n",
        _models(found["models"]),
        _speeds(found["models"]),
        _prompts(found["models"]),
        "## Kernels\n",
        "Error: largest difference from float32 torch, in bf16 roundings of the largest value of "
        "its row. Seconds: the first call, compiling included.\n",
        _kernels(found["kernels"]),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _models(rows: list[Found]) -> str:
    lines = [
        "| model | weights | worst layer's PCC | logits' PCC | same best | load, s | warm-up, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row.get("layer_pcc"):
            why = f"does not fit: {row['unfit']}" if "unfit" in row else row["error"]
            lines.append(f"| {row['model']} | {row['precision']} | {why} | | | | |")
            continue
        seconds = row["wall_seconds"]
        lines.append(
            f"| {row['model']} | {row['precision']} | {_worst(row['layer_pcc']):.5f} "
            f"| {row['logits_pcc']:.5f} | {100 * row['same_best']:.0f} % "
            f"| {seconds['load']:.1f} | {seconds['warm_up']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _speeds(rows: list[Found]) -> str:
    lines = [
        "| model | weights | sequences | traced | step, ms | tokens/s | least DRAM bytes | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for speed in row.get("speeds", ()):
            lines.append(
                f"| {row['model']} | {row['precision']} | {speed['sequences']} "
                f"| {'yes' if speed['traced'] else 'no'} | {1e3 * speed['step_seconds']:.2f} "
                f"| {speed['tokens_per_second']:.1f} | {speed['dram_bytes'] / 1e6:.1f} MB "
                f"| {100 * speed['bandwidth_share']:.1f} % |"
            )
        lines += [
            f"| {row['model']} | {row['precision']} | {why} | | | | | |"
            for why in row.get("not_measured", ())
        ]
    return "\n".join(lines) + "\n"


def _prompts(rows: list[Found]) -> str:
    """A prompt's chunks of 32 rows, of which nobody reads one."""
    lines = ["| model | weights | steps in flight | prompt tokens/s |", "|---|---|---|---|"]
    for row in rows:
        for prompt in row.get("prompts", ()):
            lines.append(
                f"| {row['model']} | {row['precision']} | {prompt['in_flight']} "
                f"| {prompt['tokens_per_second']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def _kernels(rows: dict[str, Found]) -> str:
    lines = ["| case | error | bound | s |", "|---|---|---|---|"]
    for name, row in rows.items():
        error = "failed" if "error" in row else f"{row['roundings']:.2f}"
        lines.append(f"| {name} | {error} | {row['bound']} | {row.get('wall_seconds', 0):.2f} |")
    return "\n".join(lines) + "\n"
