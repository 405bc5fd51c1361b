"""How a command of the study ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gpunet.errors import DataError
from scripts.study.checkout import ROOT
from scripts.study.command import run


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def end(error: BaseException | None) -> int:
        def main() -> None:
            if error is not None:
                raise error

        with pytest.raises(SystemExit) as stop:
            run(main)
        return int(stop.value.code or 0)

    assert end(None) == 0 and capsys.readouterr().err == ""
    assert end(DataError("no markers")) == 3 and capsys.readouterr().err == "error: no markers\n"
    assert end(KeyboardInterrupt()) == 130 and capsys.readouterr().err.startswith("interrupted")


@pytest.mark.parametrize("module", ["gallery", "publish"])
def test_from_the_root(module: str) -> None:
    command = [sys.executable, "-m", f"scripts.study.{module}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"usage: python -m scripts.study.{module}" in done.stdout
