"""A short campaign through every parser, and the tool itself on parsers with planted faults."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpunet.errors import DataError
from tests.fuzz import __main__ as command
from tests.fuzz import targets as declared
from tests.fuzz.campaign import CURRENT, Result, campaign, input_of
from tests.fuzz.targets import MIB, Target, targets


def test_every_parser_ends_in_a_value_or_an_error_of_gpunet(tmp_path: Path) -> None:
    known = targets(tmp_path)
    result = campaign(known, tmp_path, seed=0, inputs=60 * len(known))
    assert {(name, what): found.details for (name, what), found in result.findings.items()} == {}
    assert result.inputs == 60 * len(known)
    for target in known:  # the files are valid, and the mutations matter
        assert result.values[target.name] > 0 and result.errors[target.name] > 0, target.name


def test_inputs_depend_on_the_seed_and_the_number_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first = targets(folders[0])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)  # which an archive may contain
    second = targets(folders[1])
    for one, two in zip(first, second, strict=True):
        inputs = [input_of(one, 0, number) for number in range(20)]
        assert inputs == [input_of(two, 0, number) for number in range(20)], one.name
        assert len(set(inputs)) > 10 and inputs != [input_of(one, 1, number) for number in range(20)]


def loop(path: Path) -> None:
    while path.read_bytes():
        pass


def fill(path: Path) -> None:
    path.read_bytes()
    bytearray(b"x") * (200 * MIB)


def look_up(path: Path) -> object:
    return {}[path.name]


def refuse(path: Path) -> None:
    raise DataError("no", "numbers")


def say_nothing(path: Path) -> None:
    raise DataError


def only_seeds(fault: Callable[[Path], object]) -> Target:
    """A parser with a fault that shows for every file but the valid one."""
    return Target("planted", "a", (b"valid",), lambda path: path.read_bytes() == b"valid" or fault(path))


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (loop, "takes more than 0.05 s"),
        (fill, "takes much memory: limit 32 MiB"),
        (look_up, "KeyError in test_fuzz.py, look_up"),
        (say_nothing, "DataError without a message"),
        (refuse, None),
    ],
)
def test_planted_faults_are_found(tmp_path: Path, fault: Callable[[Path], object], what: str | None) -> None:
    target = dataclasses.replace(only_seeds(fault), seconds=0.05 if fault is loop else 5.0)
    result = campaign([target], tmp_path, seed=0, inputs=3)
    assert [found.what for found in result.findings.values()] == ([what] if what else [])
    assert result.errors == ({} if what else {"planted": 3}) and result.values == {}
    for found in result.findings.values():
        assert found.count == 3 and found.number == 0 and found.data == input_of(found.target, 0, 0)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Target:
    target = only_seeds(look_up)
    monkeypatch.setattr(declared, "targets", lambda folder: [target])
    return target


def test_command(tmp_path: Path, planted: Target, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--folder", str(tmp_path), "--out", str(tmp_path / "out"), "--seed", "5"]
    assert command.main([*words, "--inputs", "4"]) == 1
    out = capsys.readouterr().out
    saved = tmp_path / "out" / "planted-5-0"
    assert "FINDING: planted: KeyError in test_fuzz.py, look_up (4 inputs, the first is 0)" in out
    assert f"saved as {saved / 'a'}; again with: python -m tests.fuzz --seed 5 --only 0" in out
    assert (saved / "a").read_bytes() == input_of(planted, 5, 0) and "KeyError: 'a'" in (
        saved / "finding.txt"
    ).read_text()
    assert command.main([*words, "--only", "0"]) == 1
    assert "KeyError: 'a'" in capsys.readouterr().out


def test_command_without_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(declared, "targets", lambda folder: [only_seeds(refuse)])
    assert command.main(["--folder", str(tmp_path), "--out", str(tmp_path / "out"), "--inputs", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", "4", "0", "4", "0"]
    assert not (tmp_path / "out").exists()


def test_crash(tmp_path: Path, planted: Target) -> None:
    (tmp_path / CURRENT).write_text("7")
    found = command.crash(tmp_path, 3, 11)
    assert found.what == "ends the process by signal 11" and found.data == input_of(planted, 3, 7)


def test_results_count_every_input() -> None:
    assert Result({"a": 2}, {"a": 1, "b": 4}).inputs == 7
