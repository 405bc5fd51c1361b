"""What a plain machine with a GPU offers, and Python processes that see no more than that."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
OFFERED = {
    *("numpy", "numba", "scipy", "cupy-cuda13x", "torch", "jax", "safetensors", "rich", "jinja2", "matplotlib"),
    *("scikit-learn", "pytest", "pytest-xdist", "hypothesis", "pillow", "threadpoolctl"),
}
"""What that machine has: no pooch, no tomli-w, no pytest-benchmark, no tensorboardX, no network."""
_HOOK = """
import sys
from importlib.machinery import PathFinder

class Present:
    find_distributions, invalidate_caches = PathFinder.find_distributions, PathFinder.invalidate_caches

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if {{name, name.partition(".")[0]}} & {absent} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Present
"""
ALONE = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the plugins that are not there are still listed as installed
    "https_proxy": "http://127.0.0.1:9",
}
"""Environment variables of such a process."""


def hook(also: Collection[str] = (), but: Collection[str] = ()) -> str:
    """The text of a ``sitecustomize.py`` that hides what is not offered, and the modules `also`, but not `but`."""
    return _HOOK.format(absent={*_absent_modules(), *also} - set(but))


def _declared() -> set[str]:
    """All packages that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    return {re.split(r"[\[>=<~ ]", requirement)[0].lower() for requirement in requirements}


def _absent_modules() -> set[str]:
    """The modules of the declared packages that are not offered, and of those that gpunet once needed."""
    missing = (_declared() | {"pooch", "tomli-w"}) - OFFERED
    modules = {
        module
        for module, packages in metadata.packages_distributions().items()
        if {package.lower().replace("_", "-") for package in packages} & missing
    }
    return modules | {"pooch", "tomli_w", "pytest_benchmark", "tensorboardX"}
