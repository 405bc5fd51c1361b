"""Tables and what they say, by hand."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path

import pytest

from gpunet.errors import ConfigError, DataError
from gpunet.sweep.progress import SweepProgress
from gpunet.sweep.summary import best_point, effects, point_score
from gpunet.sweep.table import FAILED, OK, TIMING, Outcome, Row, read_table, write_table
from gpunet.sweep.trial import read_outcome


def row(number: int, seed: int, accuracy: float | None, **values: str) -> Row:
    outcome = Outcome(FAILED, error="it\ndiverged, badly") if accuracy is None else Outcome(
        OK, accuracy, 0.25, 3, "joint", 4, 99, seconds=1.5, images_per_second=10.0
    )  # fmt: skip
    return Row(number, values, seed, outcome)


ROWS = [
    row(1, 0, 0.80, a="x", b="1"),
    row(2, 1, 0.82, a="x", b="1"),
    row(3, 0, 0.84, a="x", b="2"),
    row(4, 1, 0.90, a="x", b="2"),
    row(5, 0, 0.70, a="y", b="1"),
    row(6, 1, None, a="y", b="1"),
    row(7, 0, 0.72, a="y", b="2"),
    row(8, 1, 0.74, a="y", b="2"),
    row(9, 0, None, a="z", b="1"),
    row(10, 1, None, a="z", b="1"),
    row(11, 0, None, a="z", b="2"),
    row(12, 1, None, a="z", b="2"),
]


def test_round_trip(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["a", "b"], ROWS)
    axes, rows = read_table(tmp_path / "t.csv")
    assert axes == ["a", "b"]
    failed = [
        Row(r.trial, r.values, r.seed, Outcome(FAILED, error="it diverged, badly")) for r in ROWS if not r.outcome.ok
    ]
    assert [r for r in rows if not r.outcome.ok] == failed
    assert [r for r in rows if r.outcome.ok] == [r for r in ROWS if r.outcome.ok]


def test_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["a", "b"], ROWS[:1])
    with (tmp_path / "t.csv").open(newline="") as file:
        header, line = csv.reader(file)
    assert header[:5] == ["trial", "a", "b", "seed", "status"] and tuple(header[-2:]) == TIMING
    assert dict(zip(header, line, strict=True)) == {
        "trial": "1", "a": "x", "b": "1", "seed": "0", "status": "ok", "validation_accuracy": "0.8",
        "validation_loss": "0.25", "chosen_epoch": "3", "stage": "joint", "epochs": "4", "parameters": "99",
        "error": "",
        "seconds": "1.5", "images_per_second": "10.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "its first line is missing"), (b"a,b\n1,2\n", "its first line is a, b"), (b"\xff", "is not the table")],
)
def test_what_is_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.csv")
    with pytest.raises(DataError, match="cannot read the table"):
        read_table(tmp_path / "none.csv")


def test_a_line_that_is_too_short(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["a", "b"], ROWS[:1])
    with (tmp_path / "t.csv").open("a") as file:
        file.write("2,x\n")
    with pytest.raises(DataError, match="is not the table of a sweep"):
        read_table(tmp_path / "t.csv")


def test_effects_compare_the_same_points() -> None:
    x, y, z = effects(ROWS, "a")
    # seed 1 at b = 1 failed with y, so x does without it as well
    assert x.by_seed == {0: pytest.approx((0.80 + 0.84) / 2), 1: pytest.approx(0.90)} and x.failed == 0
    assert y.by_seed == {0: pytest.approx((0.70 + 0.72) / 2), 1: pytest.approx(0.74)} and y.failed == 1
    assert x.mean == pytest.approx((0.82 + 0.90) / 2)
    assert y.std == pytest.approx(statistics.stdev([0.71, 0.74]))
    assert (z.by_seed, z.mean, z.std, z.failed) == ({}, None, None, 4)


def test_one_seed_has_no_spread() -> None:
    (effect,) = effects(ROWS[:1], "a")
    assert (effect.mean, effect.std, effect.seeds) == (0.8, None, 1)


def test_best_point_has_all_its_seeds() -> None:
    best = best_point(ROWS)
    assert [r.trial for r in best] == [3, 4] and point_score(best) == pytest.approx(0.87)
    assert best_point(ROWS[5:6]) == [] and best_point([]) == []


GOOD = {"status": "ok", "validation_accuracy": 0.5, "validation_loss": 0.25, "chosen_epoch": 3, "stage": ""}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "done"}, "status must be ok or failed, got 'done'"),
        ({"status": ["ok"]}, "status must be ok or failed"),
        ({"validation_accuracy": "0.5"}, "validation_accuracy must be a number from 0 to 1, got '0.5'"),
        ({"validation_accuracy": 50}, "validation_accuracy must be a number from 0 to 1, got 50"),
        ({"validation_accuracy": None}, "a finished trial must have a validation_accuracy"),
        ({"validation_loss": True}, "validation_loss must be a number, got True"),
        ({"chosen_epoch": 1.5}, "chosen_epoch must be a whole number of at least 0, got 1.5"),
        ({"stage": None}, "stage must be a string, got None"),
        ({"seconds": "3 s"}, "seconds must be a number of at least 0, got '3 s'"),
        ({"warp": 1}, "unexpected keyword argument 'warp'"),
        ("{", "Expecting property name"),
        ("[1]", "must be a mapping"),
    ],
)
def test_outcomes_of_other_versions(tmp_path: Path, change: dict[str, object] | str, message: str) -> None:
    text = change if isinstance(change, str) else json.dumps({**GOOD, **change})
    (tmp_path / "trial.json").write_text(text)
    with pytest.raises(
        DataError, match=r"trial\.json cannot be read as the outcome of a trial: .*remove it to train"
    ) as error:
        read_outcome(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("status", "done", "status must be ok or failed"),
        ("validation_accuracy", "1.5", "validation_accuracy must be a number from 0 to 1, got 1.5"),
        ("validation_accuracy", "", "a finished trial must have a validation_accuracy"),
        ("validation_loss", "low", "could not convert string to float: 'low'"),
        ("chosen_epoch", "1.5", "invalid literal for int"),
        ("epochs", "-3", "epochs must be a whole number of at least 0"),
    ],
)
def test_cells_of_other_programs(tmp_path: Path, column: str, cell: str, message: str) -> None:
    write_table(tmp_path / "t.csv", ["a", "b"], ROWS[:1])
    with (tmp_path / "t.csv").open(newline="") as file:
        header, line = csv.reader(file)
    line[header.index(column)] = cell
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, line])
    with pytest.raises(DataError, match=rf"is not the table of a sweep: {message}"):
        read_table(tmp_path / "t.csv")


def test_a_line_of_progress_cannot_command_the_terminal() -> None:
    from rich.console import Console

    text = io.StringIO()
    with SweepProgress(Console(file=text, width=200)) as progress:
        progress.add(3)
        progress.over(Row(1, {"name": "a\x1b[2J"}, 0, Outcome(FAILED, error="no \x9b\nfile")), 3)
    assert text.getvalue() == "1/1 trials  name: a\\x1b[2J  seed 0  failed: no \\x9b\\nfile\n"


@pytest.mark.parametrize(("metric", "best"), [("rmse", "y"), ("r2", "x")])
def test_points_are_ranked_in_the_direction_of_their_metric(tmp_path: Path, metric: str, best: str) -> None:
    scores = {"x": (-0.5, 4.5), "y": (1.0, 2.0)}  # means 2 and 1.5
    rows = [
        Row(number, {"a": name}, seed, Outcome("ok", validation_loss=0.1, metric=metric, score=scores[name][seed]))
        for number, (name, seed) in enumerate([("x", 0), ("x", 1), ("y", 0), ("y", 1)], start=1)
    ]
    write_table(tmp_path / "table.csv", ["a"], rows)
    assert read_table(tmp_path / "table.csv") == (["a"], rows)
    assert {row.values["a"] for row in best_point(rows)} == {best}
    assert [effect.mean for effect in effects(rows, "a")] == [2.0, 1.5]
    other = Row(5, {"a": "z"}, 0, Outcome("ok", validation_accuracy=0.5))
    assert best_point([*rows, other]) == [], "an accuracy and an error cannot be ranked"
    with pytest.raises(ConfigError, match="a finished trial must have a score"):
        Outcome("ok", metric="r2")
