"""The picture of predicted tokens a second, as SVG: the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from device_service.model.tt_boards import BOARDS
from tests.traffic.rows import BATCHES, CONTEXTS, MODELS, WEIGHTS, Row

COLOURS = {"bf16": "#4477aa", "bfp8": "#228833", "mixed": "#ccbb44"}
KNOWN = {14: "vendor's model", 17: "research code"}
"""Tokens a second of E4B for one user, as claimed for one Blackhole chip."""
SHADES = (1.0, 0.75, 0.5)
"""Of a bar, by context."""


def write(rows: Sequence[Row], path: Path) -> None:
    """A panel for each model and batch: boards, on each the weights, in each the contexts."""
    style = {"svg.hashsalt": "tessera", "svg.fonttype": "none", "font.size": 8}
    with mpl.rc_context(style):
        figure = Figure(figsize=(11, 6.5), layout="constrained")
        axes = figure.subplots(len(MODELS), len(BATCHES), squeeze=False)
        for i, model in enumerate(MODELS):
            for j, batch in enumerate(BATCHES):
                mine = [row for row in rows if row.model == model and row.batch == batch]
                _panel(axes[i][j], mine, f"{model}, {batch} sequence{'s' if batch > 1 else ''}")
        figure.suptitle(
            "Decode, all sequences together: predicted, not measured. "
            "Bars: with a trace; marks: the ceiling of the board's full rate"
        )
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _panel(axes: Axes, rows: Sequence[Row], title: str) -> None:
    width = 0.8 / (len(WEIGHTS) * len(CONTEXTS))
    for b, board in enumerate(BOARDS):
        for w, weights in enumerate(WEIGHTS):
            for c, context in enumerate(CONTEXTS):
                at = b - 0.4 + (w * len(CONTEXTS) + c + 0.5) * width
                row = next(
                    r for r in rows if (r.board, r.weights, r.context) == (board, weights, context)
                )
                if row.predicted_tokens_per_s is None or row.ceiling_tokens_per_s is None:
                    axes.annotate("×", (at, 0), ha="center", va="bottom", fontsize=6)
                    continue
                label = f"{weights}, {_short(context)}" if b == 0 else None
                axes.bar(
                    at, row.predicted_tokens_per_s, width * 0.9,
                    color=COLOURS[weights], alpha=SHADES[c], label=label,
                )  # fmt: skip
                axes.plot(
                    [at - width / 2, at + width / 2], [row.ceiling_tokens_per_s] * 2,
                    color="black", linewidth=0.8,
                )  # fmt: skip
    if rows[0].model == "E4B" and rows[0].batch == 1:
        for (tokens, whose), line in zip(KNOWN.items(), ("dotted", "dashed"), strict=True):
            label = f"{tokens}: {whose}"
            axes.axhline(tokens, color="#bb5566", linewidth=1, linestyle=line, label=label)
    axes.set_xticks(range(len(BOARDS)), list(BOARDS))
    axes.set_xlim(-0.5, len(BOARDS) - 0.5)
    axes.set_ylabel("tokens/s")
    axes.set_title(title)
    axes.legend(fontsize=6, ncols=len(WEIGHTS), title="weights, context (×: does not run)",
                title_fontsize=6)  # fmt: skip


def _short(context: int) -> str:
    return f"{context // 1024}k" if context >= 1024 else str(context)
