"""This checkout: its root, its paths and its commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = Path("gpunet") / "experiments" / "published.json"
"""The published results, which are part of the package."""
FIGURES = Path("docs") / "results"
"""Tables, figures and pages."""


def commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout `root`, with ``-dirty`` appended if files were changed; None outside a repository.

    The published results do not count as changes: those of one model are often written before those of another.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        except OSError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    found = git("rev-parse", "HEAD") if (root / ".git").exists() else None
    if not found:
        return None
    code = ("gpunet", "kernels", f":!{PUBLISHED.as_posix()}")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return f"{found}-dirty" if changes else found
