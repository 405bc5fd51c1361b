"""``scripts/gpu_check.sh``: goes on past what fails, and writes down what it found."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from bench import gpu_check, gpu_step
from bench.gpu_check import Outcome, Part, run
from bench.results import load
from gpunet.errors import DataError

ROOT = Path(__file__).parent.parent


def python(code: str, limit: int = 60) -> Part:
    return Part("a part", (sys.executable, "-c", code), limit)


def test_outcomes_of_a_part() -> None:
    passed = run(python("print('5 passed'); print('{\"speed\": 3}')"), 60)
    assert (passed.status, passed.facts, passed.tail) == ("passed", {"speed": 3}, "")
    plain = run(python("print('== 5 passed in 1 s ==')"), 60)
    assert (plain.status, plain.summary, plain.facts) == ("passed", "5 passed in 1 s", None)
    failed = run(python("import sys; print('out', flush=True); sys.exit('broken')"), 60)
    assert failed.status == "failed" and failed.tail == "out\nbroken"
    slow = run(python("import time; print('begun', flush=True); time.sleep(60)", limit=2), 60)
    assert slow.status == "timed out" and slow.tail == "begun" and 2 <= slow.seconds < 20
    gone = run(Part("gone", ("/no/such/program",), 9), 60)
    assert (gone.status, gone.summary) == ("left out", "/no/such/program is not on this machine")
    assert run(python("print(1)"), 4).status == "left out"
    lacking = run(python(f"import sys; print('no data'); sys.exit({gpu_check.LEFT_OUT})"), 60)
    assert (lacking.status, lacking.summary, lacking.tail) == ("left out", "no data", "")


def test_a_training_without_data_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(backend: object, epochs: int, rehearse: bool) -> None:
        raise DataError("Fashion-MNIST is not\nthere")

    monkeypatch.setattr(gpu_step, "train", absent)
    monkeypatch.setattr(sys, "argv", ["gpu_step", "--device", "cpu", "--train", "2"])
    with pytest.raises(SystemExit) as ended:
        gpu_step.main()
    assert ended.value.code == gpu_check.LEFT_OUT
    assert capsys.readouterr().out == "no training: Fashion-MNIST is not there\n"


def test_the_parts_fit_the_time() -> None:
    parts = gpu_check.parts(quick=False)
    assert [part.name for part in parts[:3]] == ["doctor", "compile all", "GPU tests"]
    stages = gpu_check.stages(parts)
    beside = ["GPU tests", "memcheck", "initcheck", "racecheck", "synccheck"]
    assert [[part.name for part in stage] for stage in stages] == [
        ["doctor"], ["compile all"], beside, ["training"], ["timings"], ["race"]
    ]  # fmt: skip
    assert sum(max(part.limit for part in stage) for stage in stages) < gpu_check.BUDGET < 600


def test_a_missing_tool_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "environment", lambda: {"date": "2026-01-02", "gpu": "H100"})
    parts = [python("print('fine')"), Part("racecheck", ("/no/such/sanitizer",), 9)]
    monkeypatch.setattr(gpu_check, "parts", lambda quick, rehearse: parts)
    assert gpu_check.main(["--out", str(tmp_path)]) == 0
    (page,) = tmp_path.glob("*.md")
    assert "| racecheck | left out | 0.0 | /no/such/sanitizer is not on this machine |" in page.read_text()
    parts.append(python("raise SystemExit(1)"))
    assert gpu_check.main(["--out", str(tmp_path)]) == 1


@pytest.mark.emulator
def test_sanitizers_see_every_array_and_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's pool is switched off, and nothing is captured."""
    from tests.emulator import EMULATED, RUNTIME, missing

    if missing():
        pytest.skip(missing())
    allocators: list[object] = []
    monkeypatch.setattr(EMULATED.xp, "cuda", types.SimpleNamespace(set_allocator=allocators.append), raising=False)
    monkeypatch.setattr(RUNTIME, "capture", lambda step: pytest.fail("captured"))
    monkeypatch.setattr(EMULATED, "captures", True)
    assert gpu_step.sanitize(EMULATED) == {"steps": 20}
    assert allocators == [None]


def test_markdown() -> None:
    facts = {"conv1": "3 us", "cnn": {"gpunet": [2.0, 1.5, 2.5], "PyTorch": [3.0, 2.0, 4.0]}}
    outcomes = [Outcome("timings", "passed", 2.5, facts=facts), Outcome("tests", "failed", tail="E boom")]
    page = gpu_check.markdown({"date": "2026-01-02", "gpu": "H100"}, outcomes)
    assert page.startswith("# GPU check, 2026-01-02\n\n- date: 2026-01-02\n- gpu: H100\n")
    assert "| timings | passed | 2.5 |  |" in page and "| conv1 | 3 us |" in page
    assert "| cnn | gpunet: 2.0 us (1.5 to 2.5); PyTorch: 3.0 us (2.0 to 4.0) |" in page
    assert "## Output of tests\n\n```\nE boom\n```" in page


@pytest.mark.slow
def test_without_a_gpu_every_part_is_reported(tmp_path: Path) -> None:
    """On a machine with a GPU this starts the real thing, so it is asked for parts that fail everywhere."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    parts = ["doctor", "compile all", "timings"]
    command = ["bash", "scripts/gpu_check.sh", "--quick", "--out", tmp_path, "--only", *parts]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    (written,) = tmp_path.glob("*.json")
    report = load(written)
    assert [(part["name"], part["status"]) for part in report["results"]] == [(part, "failed") for part in parts]
    assert all("device 'cuda' is not available" in part["tail"] for part in report["results"])
    assert report["versions"]["numpy"] and report["commit"]
    assert written.with_suffix(".md").read_text().count("| failed |") == 3
