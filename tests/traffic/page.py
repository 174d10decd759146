"""The page of the account, kernels/traffic.md; every number of it comes from the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from device_service.model.tt_boards import BOARDS
from tests.traffic import timing
from tests.traffic.rows import Row, recorded

COLUMNS = (
    "model", "board", "weights", "batch", "context", "GB a step", "over least", "bare",
    "weights over once", "launches a layer", "a step", "cores, least", "L1 KB", "ms DRAM",
    "ms cycles", "binds", "tokens/s", "untraced", "ceiling",
)  # fmt: skip
HEADER = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|"
HEAD = """\
# What a decode step moves, and what that predicts

Written by `make traffic`; no number is typed by hand. **Predicted, not measured**: none of it has
run on silicon.

![Predicted, not measured: tokens a second]({picture})

**Counted.** The real decoder is run at full size on tensors without numbers; of each of its
launches, every thread of the kernel is run on every core of the board's grid, and every tile that
it moves to or from DRAM is counted ([tests/traffic](../tests/traffic)). Besides: what the host
writes and reads each step, and where a tile row becomes complete (one step in 32 for one sequence)
the masks that change with it and its copies from staging to the caches (`paged_fill_cache`,
launches of ttnn's; by its source it reads the whole of staging).

**Least.** Every weight matrix once in its format, every norm once and unrepeated, keys and values
once by each layer whose queries see them, at the true context, the newest ones written; and
activations once written and once read in the tile rows of 32 that tensors are made of: embeddings,
per-layer inputs and logits; queries, attended values, attention's output, GeGLU's product, the
feed-forward's output, the gated per-layer input, and the residual stream twice a layer. *Bare* is
over the same without activations, but for embeddings, per-layer inputs and logits of the rows in
use, once: what a step would move whose activations never left the cores. The per-layer model
projection is multiplied on the host, before the step, and is in neither.

**Time.** A launch takes as long as its bytes at {shares} of the board's
rate ({rates}), or as its busiest core's busiest unit, whichever is longer. Cycles are wolfpine's
timing model ({cases} small cases of all kernels, priced by kind of work; the worst fit is off by
{worst}); they are a floor, for a Blackhole, at {clock} GHz, and for a Wormhole the same at
{wormhole_clock} GHz. bfp8's unpacking is not in them. Between launches {launch} µs with a trace,
{untraced} without (assumed); host transfers at {host} GB/s (assumed). The host's own work, sampling
and the gateway are left out.

**Ceiling.** The bare least at the board's full rate, and all else free.

**Known.** E4B, one sequence: 14 tokens/s the vendor's ttnn model on a p150, 17 claimed for the
research code that this grew from, on one Blackhole chip. Predicted here for a p150, at context 128:
{ours}.

"""


def text(rows: Sequence[Row]) -> str:
    """The whole page."""
    priced = timing.prices()
    shares = {f"{b.bandwidth_share:.0%}" for b in BOARDS.values()}
    own = [r for r in rows if (r.model, r.board, r.batch, r.context) == ("E4B", "p150", 1, 128)]
    ours = ", ".join(
        f"{r.predicted_tokens_per_s:.0f} in {r.weights}" for r in own if r.predicted_tokens_per_s
    )
    head = HEAD.format(
        picture="traffic.svg",
        shares=" or ".join(sorted(shares)),
        rates=", ".join(
            f"{b.name} {b.dram_bytes_per_second / 1e9:.0f} GB/s" for b in BOARDS.values()
        ),
        cases=priced.num_cases,
        worst=f"{max(priced.worst.values()):.0%}",
        clock=timing.CLOCK_HZ["p150"] / 1e9,
        wormhole_clock=timing.CLOCK_HZ["n150"] / 1e9,
        launch=f"{timing.LAUNCH_SECONDS['with trace'] * 1e6:.0f}",
        untraced=f"{timing.LAUNCH_SECONDS['without trace'] * 1e6:.0f}",
        host=f"{timing.HOST_BYTES_PER_SECOND / 1e9:.0f}",
        ours=ours,
    )
    parts = [head, "## Every row\n\n", HEADER, "\n"]
    parts += [line(row) + "\n" for row in rows]
    parts += _refused(rows)
    parts += _kernels(rows)
    return "".join(parts)


def line(row: Row) -> str:
    """A row of the table."""
    which = [row.model, row.board, row.weights, str(row.batch), str(row.context)]
    if row.why_not is not None:
        return "| " + " | ".join([*which, "does not run: below", *[""] * 13]) + " |"
    cells = [
        f"{row.step_bytes / 1e9:.3f}",
        f"{row.step_ratio:.3f}",
        f"{row.bare_ratio:.3f}",
        f"{row.weight_read_ratio:.3f}",
        str(row.launches_per_layer),
        f"{row.launches_per_step} + {row.moves_per_step:.1f}",
        str(row.min_cores),
        f"{row.l1_bytes / 1024:.0f}",
        f"{row.dram_ms:.2f}",
        f"{row.cycles_ms:.2f}",
        f"{row.binds} ({row.launches_bound_by_cycles})",
        f"{row.predicted_tokens_per_s:.1f}",
        f"{row.untraced_tokens_per_s:.1f}",
        f"{row.ceiling_tokens_per_s:.1f}",
    ]
    return "| " + " | ".join([*which, *cells]) + " |"


def _refused(rows: Sequence[Row]) -> Iterator[str]:
    yield "\n*a step*: launches of kernels + copies of completed tile rows, on average. *binds*:"
    yield "\nover a step; in brackets the launches whose cycles are longer than their bytes.\n"
    if not any(row.why_not for row in rows):
        return
    yield "\n## What does not run, and why\n\n"
    for row in rows:
        if row.why_not:
            what = f"{row.model} {row.weights}, {row.batch} × {row.context} on a {row.board}"
            yield f"- {what}: {row.why_not}\n"


def _kernels(rows: Sequence[Row]) -> Iterator[str]:
    """One step of E4B and of E2B in bf16 on a p150, kernel by kernel."""
    yield "\n## One step, kernel by kernel\n\nbf16, p150, one sequence, context 8192.\n"
    columns = ("launches", "MB", "of matrices", "cores", "L1 KB", "µs DRAM", "µs cycles", "busiest")
    for model in dict.fromkeys(row.model for row in rows):
        step, _ = recorded(model, BOARDS["p150"], "bf16", 1, 8192)
        yield "\n| " + " | ".join((model, *columns)) + " |\n" + "|---" * 9 + "|\n"
        for kernel, one in timing.by_kernel(step.calls, BOARDS["p150"]).items():
            yield (
                f"| {kernel} | {one.launches} | {one.num_bytes / 1e6:.1f} | "
                f"{one.matrix_bytes / 1e6:.1f} | {one.cores} | {one.l1_bytes / 1024:.0f} | "
                f"{one.dram * 1e6:.1f} | {one.cycles * 1e6:.1f} | {one.unit} |\n"
            )
