"""The package as a whole: what importing it costs, what the wheel holds, which way imports point."""

from __future__ import annotations

import ast
import email
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
HEAVY = ("numba", "cupy", "matplotlib", "sklearn", "scipy", "PIL", "rich", "torch")


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done  # type: ignore[no-any-return]


def test_import_is_light() -> None:
    code = f"import sys, gpunet; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "[]"


def test_import_of_every_part_needs_no_kernel_compiler() -> None:
    # 'training' and 'experiments' use rich, Pillow and matplotlib only once they run
    parts = "data, experiments, models, nn, ops, optim, report, training"
    code = f"import sys; from gpunet import {parts}; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "[]"


def test_the_cuda_path_needs_no_numba() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("gpunet/ops/*/cuda.py")]
    assert "gpunet.ops.conv2d.cuda" in modules
    code = f"import sys, {', '.join(modules)}; print('numba' in sys.modules, 'llvmlite' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "False False"


def test_import_takes_less_than_three_tenths_of_a_second() -> None:
    """The one timed assertion, a promise to users: in CPU time, so that a busy machine does not matter."""
    code = "import time; t = time.process_time(); import gpunet; print(time.process_time() - t)"
    assert float(run(sys.executable, "-c", code, cwd=ROOT).stdout) < 0.3


def test_packages_are_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "gpunet").rglob("__init__.py")}
    assert listed == found | {"gpunet.kernels"}


def test_imports_point_downwards() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed: pip install -e '.[dev]'")
    run(linter, "--no-cache", cwd=ROOT)


def test_the_package_knows_of_no_checkout() -> None:
    """What calls git, draws this repository's figures or rewrites its pages is in ``scripts/study/``."""
    for path in (ROOT / "gpunet").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"README|docs/results|pyproject|\bROOT\b|[\"']git[\"']", text), path


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not even by an import inside a function; those for type checkers alone do not count."""
    grimp = pytest.importorskip("grimp", reason="grimp is not installed: pip install -e '.[dev]'")
    graph = grimp.build_graph("gpunet", cache_dir=None, exclude_type_checking_imports=True)
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert len(left) > 100
    while leaves := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in leaves:
            del left[module]
    assert not left, f"some of these are in a circle: {sorted(left)}"


IMPORTS_BY_STRING = {
    "gpunet/__init__.py": 2,  # the public names, imported at their first use
    "gpunet/cli/main.py": 1,  # the commands
    "gpunet/ops/_compile_worker.py": 1,  # the kernels that it is asked for
    "gpunet/ops/_dispatch.py": 1,  # the implementations of an op
    "gpunet/training/tracking.py": 1,  # none of gpunet: wandb, or trackio
}
"""Calls that import a module of gpunet by its name, which the import linter does not see, in each file."""


def test_modules_are_imported_by_statements() -> None:
    found: dict[str, int] = {}
    for path in sorted((ROOT / "gpunet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name in ("import_module", "__import__") and "'numba'" not in ast.unparse(node):
                file = path.relative_to(ROOT).as_posix()
                found[file] = found.get(file, 0) + 1
    assert found == IMPORTS_BY_STRING


def test_kernels_holds_no_python() -> None:
    assert not list((ROOT / "kernels").rglob("*.py"))


PROGRAM = """
import numpy as np, pathlib, sys
rng = np.random.default_rng(0)
y = rng.integers(0, 3, 90)
x = (rng.integers(0, 60, (90, 8, 8)) + 60 * y[:, None, None]).astype(np.uint8)
np.savez("data.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
import gpunet
assert pathlib.Path(gpunet.__file__).is_relative_to(sys.prefix), gpunet.__file__
assert (pathlib.Path(gpunet.__file__).parent / "kernels" / "README.md").exists()
assert (pathlib.Path(gpunet.__file__).parent / "py.typed").exists()
import importlib, pkgutil
for module in pkgutil.walk_packages(gpunet.__path__, "gpunet."):
    if "cuda" not in module.name and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from gpunet.experiments.published import load_published
assert set(load_published()) == {"mlp", "cnn", "hybrid"}
from gpunet.report.html import render
assert "<html" in render("comparison.html", runs=[], options=[], curves=[], legend=[], pairs=[], split="test",
                         warnings=[], version="", made="")
"""


@pytest.mark.slow
def test_wheel_installs_and_trains_with_the_tree_gone(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", tree)
    for path in sorted(tree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (wheel,) = (tmp_path / "dist").glob("gpunet-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if not name.startswith(("gpunet/", "gpunet-"))]
    assert {name for name in files if name.startswith("gpunet/")} <= set(names)
    study = re.compile("gallery|conclusions|publish|markers|checkout|study")
    assert [name for name in names if study.search(name)] == [
        "gpunet/experiments/published.json",
        "gpunet/experiments/published.py",
    ]
    source = zipfile.ZipFile(wheel).read("gpunet/experiments/published.py").decode()
    assert "def load_published" in source and "def save_published" not in source

    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GPUNET"))}
    environment = {**outside, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    venv.create(tmp_path / "env", with_pip=False)
    python, command = (tmp_path / "env" / "bin" / name for name in ("python", "gpunet"))
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    link_requirements(wheel, site)
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", wheel, env=outside)
    run(*pip, "check", env=outside)
    run(python, "-c", PROGRAM, cwd=tmp_path, env=environment)
    # The MLP shows that kernels compile and are cached there; those of the CNN are the same files, imported above.
    options = ("--data", "data.npz", "--epochs", "3", "--batch-size", "16", "--device", "cpu")
    done = run(command, "train", "mlp", *options, "--hidden", "8", cwd=tmp_path, env=environment)
    assert done.stdout.splitlines()[-1].startswith("test accuracy ")


def link_requirements(wheel: Path, site: Path) -> None:
    """Links in `site` to the packages of this environment that `wheel` requires, and those that they require: just what
    ``pip install`` would get from its index.
    """
    (about,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    found = email.message_from_bytes(zipfile.ZipFile(wheel).read(about)).get_all("Requires-Dist") or []
    waiting, seen = [Requirement(text) for text in found], set()
    while waiting:
        wanted = waiting.pop()
        if (wanted.marker and not wanted.marker.evaluate({"extra": ""})) or wanted.name in seen:
            continue
        seen.add(wanted.name)
        package = distribution(wanted.name)
        waiting += map(Requirement, package.requires or [])
        for part in {
            Path(file).parts[0] for file in package.files or [] if Path(file).parts[0] not in ("..", "__pycache__")
        }:
            if not (site / part).exists():
                (site / part).symlink_to(Path(str(package.locate_file(part))))
