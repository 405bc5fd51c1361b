"""The table of the op benchmarks, from results made by hand."""

from __future__ import annotations

import pytest

from bench import table
from tests.bench import samples


def test_rows() -> None:
    first, second, third = table.rows(samples.ops())
    assert first.name == "conv2d conv1-1x32@28 forward" and first.device == "cpu" and first.batch == 4
    assert first.ms == {"reference": 90.0, "numpy": 12.0, "numba": 2.0, "pytorch": 5.0}  # the better layout
    assert (first.peer, first.ratio, first.low, first.high) == ("pytorch-nhwc", 2.5, 2.25, 3.125)
    assert (second.peer, second.ratio) == ("pytorch-nchw", 0.75)
    assert (third.peer, third.ratio) == ("numpy", 1.25)
    assert [row.peer for row in table.rows(samples.ops(), "pytorch")] == ["pytorch-nhwc", "pytorch-nchw", None]


def test_a_problem_that_ours_did_not_solve_is_no_row() -> None:
    assert table.rows([samples.result("relu", "numpy", 1.0, ratio=2.0)]) == []
    alone = table.rows([samples.result("relu", "numba", 1.0)])
    assert [(row.peer, row.ratio) for row in alone] == [(None, None)]


def test_the_gpus_ours_are_the_kernels() -> None:
    of_gpu = [
        {**samples.result("relu", name, ms, ratio=ratio), "device": "cuda:0"}
        for name, ms, ratio in (("cupy", 3.0, 1.5), ("rawkernel", 2.0, None))
    ]
    (row,) = table.rows(of_gpu)
    assert row.ours["implementation"] == "rawkernel" and row.peer == "cupy" and row.device == "cuda:0"


def test_the_table() -> None:
    lines = table.ops(samples.ops()).splitlines()
    header, rule, first, second, third = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert header == [
        "op", "shape", "direction", "reference ms", "numpy ms", "numba ms", "pytorch ms", "peer", "peer/ours",
        "lowest to highest", "GFLOP/s", "GB/s", "roofline",
    ]  # fmt: skip
    assert set("".join(rule)) == {"-", ":"} and len({len(line) for line in lines}) == 1
    assert first == [
        "conv2d", "conv1-1x32@28", "forward", "90.0", "12.0", "2.00", "5.00", "pytorch-nhwc", "2.50", "2.25 to 3.12",
        "5.00", "0.500", "10%",
    ]  # fmt: skip
    assert second[3:9] == ["", "", "4.00", "3.00", "pytorch-nchw", "0.75"]
    assert third[3:9] == ["", "0.0200", "0.0160", "", "numpy", "1.25"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0.000"),
        (0.00995, "0.00995"),
        (0.0558, "0.0558"),
        (0.442, "0.442"),
        (1, "1.00"),
        (13.14, "13.1"),
        (110.4, "110"),
        (1234.6, "1,235"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert table.number(value) == text
