"""Ranks on the CUDA path: graphs with the communication between them, and NCCL's calls, on emulated devices."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from gpunet.backend import CPU, Backend
from gpunet.cuda.nccl import NcclCollectives
from gpunet.models import CNN
from gpunet.parallel.communicator import Wait, no_wait
from gpunet.parallel.shards import ShardedStep
from gpunet.training import Trainer, TrainingConfig
from tests.parallel.threads import ThreadCommunicator, run_ranks
from tests.support import assert_close
from tests.training.problems import loaders, without_times


@pytest.fixture(scope="module")
def emulated() -> Backend:
    from tests.emulator import EMULATED, RUNTIME, missing

    if reason := missing():
        pytest.skip(reason)
    RUNTIME.seed = 1
    return EMULATED


class FakeNccl:
    """``cupy.cuda.nccl`` for the threads of a meeting: copies at the addresses that it is given, by the host."""

    NCCL_FLOAT32, NCCL_FLOAT64 = 7, 8
    SIZES = {7: 4, 8: 8}  # noqa: RUF012

    def __init__(self, rank: ThreadCommunicator) -> None:
        self._rank = rank
        self._queued: list[tuple[str, int, int, int]] | None = None
        self.calls: list[str] = []

    def get_unique_id(self) -> tuple[int, ...]:
        return (1, 2, 3)

    def NcclCommunicator(self, size: int, identifier: Any, rank: int) -> FakeNccl:
        assert identifier == (1, 2, 3) and (size, rank) == (self._rank.size, self._rank.rank)
        return self

    def allGather(self, send: int, receive: int, count: int, kind: int, stream: int) -> None:
        self.calls.append("allGather")
        length = count * self.SIZES[kind]
        assert send == receive + self._rank.rank * length and stream == 99
        for peer, data in enumerate(self._rank.exchange(ctypes.string_at(send, length))):
            ctypes.memmove(receive + peer * length, data, length)

    def groupStart(self) -> None:
        self._queued = []

    def send(self, address: int, count: int, kind: int, peer: int, stream: int) -> None:
        assert self._queued is not None and stream == 99
        self._queued.append(("send", peer, address, count * self.SIZES[kind]))

    def recv(self, address: int, count: int, kind: int, peer: int, stream: int) -> None:
        assert self._queued is not None and stream == 99
        self._queued.append(("recv", peer, address, count * self.SIZES[kind]))

    def groupEnd(self) -> None:
        self.calls.append("group")
        queued, self._queued = self._queued, None
        assert queued is not None
        mine = {peer: ctypes.string_at(at, length) for what, peer, at, length in queued if what == "send"}
        theirs = self._rank.exchange(mine)
        for what, peer, at, length in queued:
            if what == "recv":
                ctypes.memmove(at, theirs[peer][self._rank.rank], length)


class NcclRank(ThreadCommunicator):
    """A rank whose arrays go through NCCL's calls."""

    def __init__(self, rank: ThreadCommunicator) -> None:
        super().__init__(rank.rank, rank._meeting)
        self.nccl = FakeNccl(rank)
        where: dict[str, Any] = {"pointer": lambda array: array.__array_interface__["data"][0], "stream": lambda: 99}
        self._collectives = NcclCollectives(self.nccl, self.rank, self.size, self.broadcast, **where)

    def all_gather(self, rows: Any) -> None:
        self._collectives.all_gather(rows)

    def all_to_all(self, send: Any, receive: Any, rows: Any) -> Wait:
        self._collectives.all_to_all(send, receive, rows)
        return no_wait


def fitted(backend: Backend, communicator: Any, **options: Any) -> tuple[Any, ...]:
    model = CNN((8, 8, 1), 4, (4,), dropout=0.1).initialize(seed=0, device=backend)
    settings = {"epochs": 1, "batch_size": 40, "lr": 5e-3, "shards": 4, "class_weights": "balanced", **options}
    config = TrainingConfig(**settings)
    trainer = Trainer(model, config, **loaders(backend, shift=1), communicator=communicator)
    trainer.fit()
    return trainer.flat.values.tobytes(), trainer.flat.state.tobytes(), without_times(trainer.history.records)


@pytest.mark.emulator
def test_any_number_of_ranks_gives_the_same_bits(emulated: Backend) -> None:
    alone = fitted(emulated, None)
    assert run_ranks(2, lambda rank: fitted(emulated, rank)) == [alone, alone]

    def through_nccl(rank: ThreadCommunicator) -> Any:
        ours = NcclRank(rank)
        found = fitted(emulated, ours)
        assert ours.nccl.calls[:4] == ["allGather", "group", "group", "allGather"]
        return found

    assert run_ranks(2, through_nccl) == [alone, alone]


@pytest.mark.emulator
def test_synchronised_batch_norm(emulated: Backend) -> None:
    """The same bits for any number of ranks, also through NCCL; and up to rounding the weights of the CPU."""
    options: dict[str, Any] = {"sync_batch_norm": True, "batch_size": 200, "optimizer": "sgd"}
    alone = fitted(emulated, None, **options)
    assert run_ranks(4, lambda rank: fitted(emulated, rank, **options)) == [alone] * 4
    assert run_ranks(2, lambda rank: fitted(emulated, NcclRank(rank), **options)) == [alone] * 2
    weights, expected = (np.frombuffer(found[0], np.float32) for found in (alone, fitted(CPU, None, **options)))
    assert_close(weights, expected, terms=200 * 64)


@pytest.mark.emulator
def test_the_host_runs_the_communication_alone_once_the_rest_is_captured(
    emulated: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each graph is run once, recorded once and then replayed, without Python; the communication is between them."""
    called: dict[str, int] = {}

    def count(name: str) -> None:
        real = getattr(ShardedStep, name)

        def counted(self: ShardedStep, *args: Any) -> Any:
            called[name] = called.get(name, 0) + 1
            return real(self, *args)

        monkeypatch.setattr(ShardedStep, name, counted)

    for name in ("_compute", "_add", "_totals", "_exchange", "_share"):
        count(name)
    assert not any(isinstance(found, BaseException) for found in run_ranks(2, lambda rank: fitted(emulated, rank)))
    assert called == {"_compute": 4, "_add": 4, "_totals": 4, "_exchange": 10, "_share": 10}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nccl_moves_what_mpi_moves(dtype: Any) -> None:
    def work(rank: ThreadCommunicator) -> Any:
        results = []
        for communicator in (rank, NcclRank(rank)):
            gathered = np.zeros((6, 2), dtype)
            gathered[2 * rank.rank : 2 * rank.rank + 2] = rank.rank + 1
            communicator.all_gather(gathered)
            received = np.zeros((6, 4), dtype)
            communicator.all_to_all(np.arange(12, dtype=dtype) + 100 * rank.rank, received, [1, 3, 5])()
            results.append((gathered.tolist(), received.tolist()))
        return results

    for index, (ours, theirs) in enumerate(run_ranks(3, work)):
        assert ours == theirs
        assert ours[0] == [[1, 1]] * 2 + [[2, 2]] * 2 + [[3, 3]] * 2
        assert ours[1][3] == [100 + 4 * index + k for k in range(4)] and ours[1][0] == [0] * 4
