"""Shards that advance together: one at a time, in order, and all end with the first that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from gpunet.backend import CPU, Gather
from gpunet.errors import ConfigError
from gpunet.parallel import Serial
from gpunet.parallel.lockstep import Lockstep
from tests.parallel.threads import run_ranks


def test_one_shard_runs_at_a_time_and_in_order() -> None:
    """Also over ranks: each meets the others twice, and sees what all have said in the order of the shards."""

    def rank(communicator: Any) -> list[Any]:
        told: list[Any] = []

        def work(index: int, gather: Gather) -> None:
            shard = communicator.rank * 4 // communicator.size + index
            for turn in range(2):
                told.append((index, turn))
                everyone = gather(np.array([shard, turn], np.float64))
                assert everyone.tolist() == [[each, turn] for each in range(4)]

        turns: list[int] = []
        Lockstep(communicator, CPU, 4).run(work, turns.append)
        local = 4 // communicator.size
        assert told == [(index, turn) for turn in range(2) for index in range(local)]
        assert turns == ([0] if local == 1 else 3 * list(range(local)))
        return told

    for ranks in (1, 2, 4):
        assert not any(isinstance(found, BaseException) for found in run_ranks(ranks, rank))


def run_four(work: Callable[[int, Gather], None]) -> None:
    Lockstep(Serial(), CPU, 4).run(work, lambda index: None)


def test_threads_have_the_settings_of_the_caller() -> None:
    found: list[Any] = []
    count = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with CPU.use_precision("tf32"):
            run_four(lambda index, gather: found.append((CPU.precision, numba.get_num_threads())))
    finally:
        numba.set_num_threads(count)
    assert found == [("tf32", 1)] * 4


@pytest.mark.parametrize("error", [ValueError("of shard 2"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [True, False])
def test_an_exception_ends_all(error: BaseException, before: bool) -> None:
    threads, reached = threading.active_count(), []

    def work(index: int, gather: Gather) -> None:
        if index == 2 and before:
            raise error
        gather(np.zeros(1))
        reached.append(index)
        if index == 2:
            raise error
        try:
            gather(np.zeros(1))
        except Exception:
            raise AssertionError("a layer must not catch the end") from None

    with pytest.raises(type(error)) as raised:
        run_four(work)
    assert raised.value is error
    assert reached == ([] if before else [0, 1, 2])
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (r"where one says float64 \(3,\), another is at its end", [3, 3, None, 3]),
        (r"where one is at its end, another says float64 \(3,\)", [None, None, None, 3]),
        (r"where one says float64 \(3,\), another says float64 \(2,\)", [3, 2, 3, 3]),
    ],
)
def test_shards_that_part_company(message: str, said: list[int | None]) -> None:
    threads = threading.active_count()

    def work(index: int, gather: Gather) -> None:
        length = said[index]
        if length is not None:
            gather(np.zeros(length))

    with pytest.raises(ConfigError, match=f"do not come by the same layers: {message}.* leave it out"):
        run_four(work)
    assert threading.active_count() == threads
