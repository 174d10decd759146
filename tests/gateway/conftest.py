"""The tokenizers that several tests of the gateway share."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.tokenizer import Tokenizer
from tests.real_tokenizer import RealTokenizerMissing, real_tokenizer_directory

DEMO_MODEL = Path(__file__).resolve().parent.parent.parent / "deploy" / "demo-model"


@pytest.fixture(scope="session")
def demo_tokenizer() -> Tokenizer:
    """Gemma 4's construction in small, in the repository."""
    return Tokenizer.from_directory(DEMO_MODEL)


@pytest.fixture(scope="session")
def real_tokenizer_dir() -> Path:
    """Gemma 3's tokenizer files; override it to test with others of its construction."""
    try:
        return real_tokenizer_directory()
    except RealTokenizerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def real_tokenizer(real_tokenizer_dir: Path) -> Tokenizer:
    """Gemma 3's, with all 262,144 entries."""
    return Tokenizer.from_directory(real_tokenizer_dir)


@pytest.fixture(params=["demo", "real"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each of them in turn."""
    fixture: Tokenizer = request.getfixturevalue(f"{request.param}_tokenizer")
    return fixture
