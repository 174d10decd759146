"""What several folders of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import DEMO_MODEL, Services, running_services


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Both real programs on the demo model in float32; no test may stop them."""
    with running_services(
        DEMO_MODEL,
        device_flags={"precision": "float32", "slots": "16", "threads": "1"},
    ) as running:
        yield running
