"""What the examples of the gallery are called with: small enough to run on two cores within a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARGUMENTS = {
    "mlp_from_scratch.py": ["--epochs", "3"],
    "cnn_feature_extraction.py": ["--filters", "8", "16", "32", "--epochs", "1"],
    "ops_on_arrays.py": [],
}


def arguments(gallery: dict[str, Any], variables: dict[str, Any]) -> list[str]:
    """The words behind the name of the program that is run; sphinx-gallery's ``reset_argv``."""
    return ARGUMENTS[Path(variables["src_file"]).name]
