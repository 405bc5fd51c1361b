"""The pages do what they say: each Python block is run, and the tutorial is followed in a clean clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BLOCK = re.compile(r"^(?P<before>[^\n]*)\n+```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
TUTORIAL = DOCS / "tutorial.md"
OF_OTHERS = {TUTORIAL, DOCS / "short_programs.md"}  # run below, and by tests/test_short_programs.py

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "GPUNET_DEVICE": "cpu",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


def blocks(page: Path, language: str) -> list[str]:
    """The code of the blocks of `page` in `language`, but for those behind a comment that says why not."""
    text = "\n" + page.read_text(encoding="utf-8")
    found = [match for match in BLOCK.finditer(text) if match["language"] == language]
    return [match["code"] for match in found if not match["before"].startswith("<!-- not run: ")]


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in OF_OTHERS and "_build" not in page.parts and blocks(page, "python")],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """In the order of the page, in one namespace, in an empty folder."""
    program = "\n".join(blocks(page, "python"))
    run([sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", program], tmp_path, ENVIRONMENT)


def test_the_tutorial_in_a_clean_clone(tmp_path: Path) -> None:
    clone = tmp_path / "gpunet"
    run(["git", "clone", "--quiet", str(ROOT), str(clone)], tmp_path, ENVIRONMENT)
    # Step 1 makes an environment and installs the clone: here it is the one of the tests, and the clone comes first.
    environment = {**ENVIRONMENT, "PYTHONPATH": str(clone)}
    install, setup, *steps = blocks(TUTORIAL, "sh")
    assert "pip install --editable ." in install and "activate" in setup
    output = "".join(run(["bash", "-euc", step], clone, environment) for step in steps)
    (accuracy, second) = re.findall(r"^test accuracy ([\d.]+) %", output, re.M)[::2][:2]
    assert 86 < float(accuracy) < 90 and float(second) > 80
    assert "Ankle boot" in output
    assert len(list(clone.glob("runs/*/report.html"))) == 1
    program = "\n".join(blocks(TUTORIAL, "python"))
    (*_, last) = re.findall(r"validation accuracy ([\d.]+)%", run([sys.executable, "-c", program], clone, environment))
    assert float(last) > 80


def test_links_lead_somewhere() -> None:
    """Relative links, in all pages and in those of the repository's root, are files."""
    missing = []
    for page in [*PAGES, *ROOT.glob("*.md"), ROOT / "bench" / "README.md"]:
        if "_build" in page.parts:
            continue
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not target.startswith(("http://", "https://", "mailto:")) and not (page.parent / target).exists():
                missing.append(f"{page.relative_to(ROOT)}: {target}")
    assert not missing


def test_the_readme_fits_one_screen_and_a_half() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert not [line for line in lines if "![" in line], "pictures with relative links are broken on a package index"
