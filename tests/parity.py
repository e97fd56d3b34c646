"""Numbers of published models under stand-in weights, which lie beside the checkout where they are at all."""

import importlib.util
import json
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

needs_shared = pytest.mark.skipif(not (SHARED / "parity").exists(), reason="the reference numbers are not here")


def formula():
    """The module that makes weights and pictures."""
    spec = importlib.util.spec_from_file_location("formula", SHARED / "parity" / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official_shapes(name):
    """Names and shapes of an official checkpoint."""
    return json.loads((SHARED / "reference/checkpoints" / f"{name}_keys.json").read_text())
