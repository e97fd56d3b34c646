"""What import-linter cannot say: some files use nothing but the standard library (and the errors)."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lvc_zoo"


def imported_modules(path):
    """Full names of the modules that a file imports, relative imports resolved."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: -node.level] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])])


@pytest.mark.parametrize("name", ["errors.py", "gop.py", "codec/container.py"])
def test_file_imports_only_standard_library(name):
    modules = set(imported_modules(PACKAGE / name)) - {"lvc_zoo.errors", "lvc_zoo.gop"}
    assert {module for module in modules if module.split(".")[0] not in sys.stdlib_module_names} == set()


def test_imported_modules_resolves_relative_names():
    assert {"torch", "lvc_zoo.color"} <= set(imported_modules(PACKAGE / "metrics" / "distortion.py"))
