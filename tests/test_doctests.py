"""The examples in the docstrings are run, and every public name has a docstring with one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gpunet

PACKAGE = Path(gpunet.__file__).parent
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.FAIL_FAST
NAMES = {"np": np, "gn": gpunet}
"""What every example may use without importing it."""

NEEDS = {"gpunet.export.read": "onnx", "gpunet.export.write": "onnx", "gpunet.export.pytorch": "torch"}
"""Modules whose examples need a package that may not be there."""

WITHOUT_EXAMPLE: dict[str, str] = {}
"""Public names whose docstring has no example, each with the reason."""

PACKAGES = tuple(f"gpunet.{part}" for part in ("ops", "nn", "models", "optim", "sklearn"))
"""All whose ``__all__`` is public."""


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(_module(path) for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_show_what_it_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUNET_DEVICE", "cpu")
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    with np.printoptions(legacy=False):
        for example in doctest.DocTestFinder(exclude_empty=True).find(module, globs=dict(NAMES)):
            runner.run(example)
    assert runner.failures == 0, capsys.readouterr().out
    assert runner.tries > 0


def _public() -> list[tuple[str, Any]]:
    found: dict[int, tuple[str, Any]] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            found[id(value)] = f"{package}.{name}", value
    return list(found.values())


def test_every_public_name_has_a_docstring_and_an_example() -> None:
    wrong = []
    for name, value in _public():
        if not (isinstance(value, ModuleType) or callable(value)):
            continue  # a constant: what it is for is said below it, where Sphinx reads it
        text = inspect.getdoc(value) if not inspect.isclass(value) else value.__doc__  # not that of a base class
        if not text:
            wrong.append(f"{name} has no docstring")
        elif callable(value) and ">>> " not in text and name not in WITHOUT_EXAMPLE:
            wrong.append(f"{name} has no example")
    assert not wrong, "\n".join(wrong)
    assert not WITHOUT_EXAMPLE.keys() - {name for name, _ in _public()}
