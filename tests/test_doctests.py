"""The examples in the docstrings are run, and every public name has a docstring with one."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gpunet

PACKAGE = Path(gpunet.__file__).parent
PAGES = sorted((PACKAGE.parent / "docs" / "reference").glob("*.md"))
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.FAIL_FAST
NAMES = {"np": np, "gn": gpunet}
"""What every example may use without importing it."""

NEEDS = {
    "gpunet.export.certificate.Certificate": "onnx",
    "gpunet.export.certificate.Comparison": "onnxruntime",
    "gpunet.export.pytorch.to_torch": "torch",
    "gpunet.export.read.import_onnx": "onnx",
    "gpunet.export.write.export_onnx": "onnx",
    "gpunet.training.tensorboard.TensorBoard": "tensorboardX",
}
"""Examples that need a package that may not be there; the others run everywhere."""

RESULTS = {
    "gpunet.experiments.features.Probe": "gpunet.experiments.features.analyse",
    "gpunet.experiments.prepare.RunData": "gpunet.experiments.prepare.prepare",
    "gpunet.experiments.report.Report": "gpunet.experiments.report.report",
    "gpunet.experiments.reproduce.Reproduction": "gpunet.experiments.reproduce.reproduce",
    "gpunet.experiments.run.EvaluationResult": "gpunet.experiments.run.evaluate",
    "gpunet.experiments.run.Fit": "gpunet.experiments.run.fit",
    "gpunet.experiments.run.Prediction": "gpunet.experiments.run.predict",
    "gpunet.experiments.run.RunResult": "gpunet.experiments.run.train",
    "gpunet.ops.batchnorm.BatchNormSaved": "gpunet.ops.batch_norm",
    "gpunet.ops.batchnorm_pool.BatchNormMaxPoolSaved": "gpunet.ops.batch_norm_max_pool",
    "gpunet.ops.conv2d_batchnorm_pool.ConvBatchNormMaxPoolSaved": "gpunet.ops.conv2d_batch_norm_max_pool",
    "gpunet.report.metrics.Calibration": "gpunet.report.metrics.calibration",
    "gpunet.report.metrics.ClassRow": "gpunet.report.metrics.per_class_table",
    "gpunet.report.metrics.PairedComparison": "gpunet.report.metrics.mcnemar",
    "gpunet.sweep.Effect": "gpunet.sweep.effects",
    "gpunet.sweep.SweepResult": "gpunet.sweep.run_sweep",
    "gpunet.training.HybridFit": "gpunet.training.fit_hybrid",
}
"""Records that need no example of their own: what a function returns, whose example shows them."""

PACKAGES = (
    "gpunet",
    *(f"gpunet.{part}" for part in ("data", "export", "models", "nn", "ops", "optim", "sklearn", "sweep", "training")),
)
"""All of their ``__all__`` is in the reference, and so are parts of other packages."""


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(_module(path) for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_show_what_it_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUNET_DEVICE", "cpu")
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    left_out = []
    with np.printoptions(legacy=False):
        for example in doctest.DocTestFinder(exclude_empty=True).find(module, globs=dict(NAMES)):
            package = NEEDS.get(example.name)
            if package is not None and importlib.util.find_spec(package) is None:
                left_out.append(f"{example.name} needs {package}")
                continue
            runner.run(example)
    assert runner.failures == 0, capsys.readouterr().out
    if left_out:
        pytest.skip("; ".join(left_out))


def _listed() -> dict[str, Any]:
    """What the pages of the reference list, by name: the entries of their tables, each in the module named before."""
    found: dict[str, Any] = {}
    for page in PAGES:
        module = None
        for line in page.read_text(encoding="utf-8").splitlines():
            if heading := re.fullmatch(r"\.\. currentmodule:: ([\w.]+)", line):
                module = importlib.import_module(heading[1])
            elif module and (entry := re.fullmatch(r"   (\w+)", line)):
                found[f"{module.__name__}.{entry[1]}"] = getattr(module, entry[1])
    return found


def test_the_reference_lists_every_public_name() -> None:
    listed = {id(value) for value in _listed().values()}  # by any of its names
    missing = [
        f"{package}.{name}"
        for package in PACKAGES
        for module in [importlib.import_module(package)]
        for name in module.__all__
        if not isinstance(getattr(module, name), ModuleType) and id(getattr(module, name)) not in listed
    ]
    assert missing == ["gpunet.__version__"]


def test_everything_in_the_reference_has_a_docstring_and_an_example() -> None:
    listed, wrong = _listed(), []
    assert len(listed) > 100
    for name, value in listed.items():
        if not callable(value):
            continue  # a constant: the string below it says what it is, which Sphinx reads
        text = value.__doc__ or ""
        if not text:
            wrong.append(f"{name} has no docstring")
        elif ">>> " not in text and name not in RESULTS and not (inspect.isclass(value) and _is_error(value)):
            wrong.append(f"{name} has no example")
    assert not wrong, "\n".join(wrong)


def _is_error(kind: type) -> bool:
    return issubclass(kind, BaseException)


@pytest.mark.parametrize(("record", "function"), RESULTS.items())
def test_a_record_without_an_example_is_what_a_function_returns(record: str, function: str) -> None:
    listed = _listed()
    kind = record.rpartition(".")[2]
    assert re.search(rf"\b{kind}\b", str(inspect.signature(listed[function]).return_annotation))
    assert ">>> " not in (listed[record].__doc__ or "")
