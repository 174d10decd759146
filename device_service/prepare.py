"""Prepares a checkpoint's weights for a board: a bundle, which the device service maps.

    python -m device_service.prepare --model DIR --out BUNDLE [--weights bf16|bfp8|mixed]

The work is `model/tt_prepare.py`'s. Any Python will do, and the files are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from device_service.model.tt_boards import BOARDS
from device_service.model.tt_plan import Precision


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 for what will not do, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m device_service.prepare",
        description="Prepares a checkpoint's weights for a Tenstorrent board. Interrupted, the "
        "same command goes on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="the checkpoint directory"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="a directory for the bundle"
    )
    parser.add_argument(
        "--weights",
        choices=get_args(Precision),
        default="bf16",
        help="number formats: bf16; bfp8; or mixed, bfp4 in attention and feed-forward (bf16)",
    )
    parser.add_argument("--board", choices=list(BOARDS), default="p150", help="(p150)")
    options = parser.parse_args(arguments)
    from device_service.model.host import tune_host

    tune_host()  # before torch is imported, and that only now: help and mistakes are told at once
    from device_service.model.tt_prepare import ERRORS, prepare

    try:
        prepare(
            options.model,
            options.out,
            options.weights,
            options.board,
            lambda line: print(line, flush=True),
        )
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
