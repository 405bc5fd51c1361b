"""The frame of the command line: help, version, log, and real processes."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpunet import __version__
from gpunet.cli.console import logging_on_stderr
from gpunet.cli.main import COMMANDS
from tests.cli.conftest import Command
from tests.cli.fake_run import FakeRun

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"numba", "matplotlib", "sklearn", "cupy", "scipy", "PIL", "rich"}


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "GPUNET_DEVICE": "cpu"}


def process(
    *words: str, code: str | None = None, stdout: int = subprocess.PIPE, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -m gpunet WORDS`` or ``python -c CODE WORDS``, in a process of its own."""
    start = ["-m", "gpunet"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *words],
        stdout=stdout, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False, timeout=120, cwd=cwd,
    )  # fmt: skip


def test_version(gpunet_command: Command) -> None:
    outcome = gpunet_command("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"gpunet {__version__}\n", "")
    found = json.loads(gpunet_command("--version", "--json").out)
    assert found == {"gpunet": __version__, "python": platform.python_version(), "numpy": np.__version__}


@pytest.mark.parametrize("words", [(), ("-q",)])
def test_without_a_command_there_is_help(gpunet_command: Command, words: tuple[str, ...]) -> None:
    assert gpunet_command(*words) == gpunet_command("--help")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(gpunet_command: Command, tmp_path: Path) -> None:
    script = gpunet_command("completion", "bash").out
    (tmp_path / "gpunet.bash").write_text(script)
    for words, expected in {
        "train cnn --acti": "--activation",
        "train cnn --activation ta": "tanh",
        "rep": "report reproduce",
    }.items():
        line = f"COMP_WORDS=(gpunet {words}); COMP_CWORD={len(words.split())}; _shtab_gpunet; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(
            ["bash", "-c", f". ./gpunet.bash; {line}"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert sorted(done.stdout.split()) == sorted(expected.split()), words


def test_help_names_every_command(gpunet_command: Command) -> None:
    outcome = gpunet_command("--help")
    assert (outcome.code, outcome.err) == (0, "")
    for command, text in COMMANDS.items():
        assert command in outcome.out and text in outcome.out
        help_of_command = gpunet_command(command, "--help")
        assert help_of_command.code == 0
        assert help_of_command.out.startswith(f"usage: gpunet {command}")


def test_help_of_a_model_shows_its_options_with_defaults(gpunet_command: Command) -> None:
    text = " ".join(gpunet_command("train", "cnn", "--help").out.split())
    assert "--filters [N ...] output channels of each block (default: 32 64 128 256 512)" in text
    assert "--optimizer {sgd,adam,adamw} update rule (default: " in text
    assert "--flip, --no-flip" in text
    assert "--head [N ...] sizes of hidden layers between the features and the classes (default: none)" in text
    assert "--hidden" not in text and "--joint-epochs" not in text
    assert "--joint-epochs" in gpunet_command("train", "hybrid", "--help").out
    for title in ("model:", "data:", "training:", "run:", "device:", "output:"):
        assert title in text


def test_help_imports_nothing_heavy() -> None:
    code = "import sys\nfrom gpunet.cli.main import main\nmain(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)"
    for words in (["--help"], ["train", "cnn", "--help"], ["predict", "--help"]):
        loaded = process(*words, code=code).stderr.split()
        assert "gpunet.cli.main" in loaded
        assert not HEAVY & set(loaded)


def test_module_is_the_command(gpunet_command: Command) -> None:
    outcome, done = gpunet_command("train", "--help"), process("train", "--help")
    assert (done.returncode, done.stdout, done.stderr) == (0, outcome.out, "")
    outcome, done = gpunet_command("trian"), process("trian")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", outcome.err)


def test_entry_point_is_declared() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["gpunet"] == "gpunet.cli.main:entry_point"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_behind_stdout() -> None:
    with Path("/dev/full").open("w") as full:
        done = process("--help", stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr == "gpunet: error: cannot write the output: No space left on device\n"


def test_closed_pipe_behind_stdout() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = process("--help", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_closed_stdout(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m gpunet --version >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


FAKE_PIPELINE = """
import sys, time
from tests.cli.fake_run import FakeRun
import gpunet.experiments
fake = gpunet.experiments.run = sys.modules["gpunet.experiments.run"] = FakeRun()
from gpunet.cli.main import entry_point
"""


def test_interrupt_of_a_process(tmp_path: Path) -> None:
    code = FAKE_PIPELINE + (
        # a process that was started in the background, as a test worker is, hands down that it ignores the signal
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Slow(FakeRun):\n"
        "    def _call(self, *args, **kw): print('started', flush=True); time.sleep(60)\n"
        "fake.__class__ = Slow\n"
        "entry_point()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "train", "cnn", "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=tmp_path,
    ) as running:  # fmt: skip
        assert running.stdout is not None and running.stdout.readline() == "started\n"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert running.returncode == 130
    assert err == f"gpunet: interrupted; continue with: gpunet train --resume {run_dir.relative_to(tmp_path)}\n"


def test_threads_reach_numba(tmp_path: Path) -> None:
    code = FAKE_PIPELINE + (
        "assert 'numba' not in sys.modules\n"
        "class Threads(FakeRun):\n"
        "    def _call(self, *args, **kw):\n"
        "        import numba\n"
        "        print(numba.get_num_threads())\n"
        "fake.__class__ = Threads\n"
        "entry_point()\n"
    )
    done = process("train", "cnn", "--threads", "3", code=code, cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "3", done.stderr


def test_file_name_in_no_encoding(tmp_path: Path) -> None:
    code = FAKE_PIPELINE + "entry_point()\n"
    done = process("train", "cnn", "--runs-dir", os.fsdecode(b"r\xff"), "--json", code=code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run_dir"].startswith("r\udcff/cnn-")
    done = process("train", "cnn", "--runs-dir", os.fsdecode(b"r\xff"), code=code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run folder: r\\udcff/cnn-" in done.stdout


def test_log_goes_to_stderr_by_level(
    gpunet_command: Command, fake_run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("gpunet")
    before = list(logger.handlers), logger.level

    def train(*args: object, **settings: object) -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logger.log(level, "said at %s", level)
        raise RuntimeError("end")

    monkeypatch.setattr(fake_run, "train", train)
    lines = {flag: gpunet_command("train", "cnn", "--device", "cpu", flag).err.splitlines() for flag in ("-q", "-v")}
    assert lines["-q"][:-1] == ["gpunet: warning: said at 30"]
    assert lines["-v"][1:-1] == ["said at 10", "said at 20", "gpunet: warning: said at 30"]
    assert (list(logger.handlers), logger.level) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "plain"),
    [({"TERM": "xterm-256color"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, True), ({"TERM": "dumb"}, True)],
)
def test_colours_only_where_wanted(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], plain: bool) -> None:
    terminal = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", terminal)
    with logging_on_stderr(0):
        logging.getLogger("gpunet").info("epoch %d: 91.5 %%", 3)
    text = terminal.getvalue()
    assert ("\x1b[" not in text) == plain
    if plain:
        assert text == "epoch 3: 91.5 %\n"
