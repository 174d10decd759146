"""The demo model served by `--backend tt` on the vendor's simulated chip, through both programs."""

from __future__ import annotations

import subprocess
import warnings

import pytest

from deploy import chip
from tests.chip import environment
from tests.chip.environment import SIMULATOR, name_of
from tests.end_to_end.agreement import ask, differences
from tests.processes import DEMO_MODEL, running_services

pytestmark = pytest.mark.chip
START_SECONDS = 3600.0
"""Every kernel is compiled first: minutes on two cores, once."""


@pytest.mark.skipif(
    name_of(SIMULATOR) != "ttsim", reason="hours on wolfpine: it is a Python program"
)
def test_the_text_is_the_torch_backends() -> None:
    python = environment.python()
    if subprocess.run([python, "-c", "import grpc"], check=False, capture_output=True).returncode:
        pytest.skip(
            f"{python} lacks the device service's packages: make demo BACKEND=tt SIMULATOR=…"
        )
    with running_services(
        DEMO_MODEL,
        device_flags={
            "backend": "tt",
            "slots": "2",
            "context-length": "512",  # as make demo: the same kernels, already compiled
            "drain-seconds": "0",
        },
        device_python=python,
        device_variables=chip.environment(SIMULATOR, python),
        start_seconds=START_SECONDS,
    ) as services:
        answer = ask(services.gateway_address, DEMO_MODEL, "The day after Friday is", 8)
    assert len(answer.ids) == 8
    for difference in differences(DEMO_MODEL, answer):
        assert difference.is_tie, difference
        warnings.warn(f"a tie: {difference}", stacklevel=1)
