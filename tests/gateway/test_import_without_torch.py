from __future__ import annotations

import os
import subprocess
import sys

from deploy.local import ROOT

BLOCKED = ("torch", "transformers", "ttnn", "ttl", "safetensors", "device_service", "kernels")

PROGRAM = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ImportError:
    pass
else:
    raise SystemExit("the blocker does not block")

import importlib, pkgutil
import gateway
for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_the_whole_gateway_imports_where_there_is_no_torch() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "protos:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.split())
    assert {"gateway.__main__", "gateway.cli", "gateway.server", "gateway.tokenizer"} <= imported
