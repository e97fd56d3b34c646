"""`import lvc_zoo` stays cheap: what only training, evaluation or the command line need is not loaded."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "av",
    "jsonargparse",
    "lightning",
    "lvc_zoo.cli",
    "lvc_zoo.metrics",
    "lvc_zoo.training",
    "matplotlib",
    "pytorch_lightning",
    "timm",
    "torchmetrics",
    "torchvision",
)


@pytest.fixture(scope="module")
def loaded_modules():
    code = "import json, sys, lvc_zoo; print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(process.stdout)


@pytest.mark.parametrize("name", HEAVY)
def test_import_of_package_does_not_load(loaded_modules, name):
    assert "lvc_zoo" in loaded_modules
    assert [module for module in loaded_modules if module == name or module.startswith(name + ".")] == []
