"""Where the trials of a sweep run: processes of this machine, a Dask cluster, or MPI ranks.

Each is a ``concurrent.futures.Executor``, and the sweep knows little more of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gpunet.data.config import DataConfig
from gpunet.errors import ConfigError
from gpunet.experiments.prepare import prepare
from gpunet.packages import pip_install
from gpunet.sweep.pool import THREADS, ProcessExecutor, WorkerLost

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("gpunet")

PATIENCE = 10.0
"""Seconds within which a scheduler must answer."""


@dataclass(frozen=True)
class Engine:
    """An executor, and what a sweep must know of it."""

    executor: Executor
    slots: float
    """How many calls it takes at once; infinite if it has a queue of its own."""
    remote: bool = False
    """Whether its workers may be on other machines, which may not see the folder of the sweep."""
    send: Callable[[DataConfig], Any] | None = None
    """Makes an argument of a call by which the data reach each worker once; None: each worker reads them itself."""
    lost: Callable[[BaseException], WorkerLost | None] = field(default=lambda error: None)
    """The executor's own way of saying that the worker of a call was lost, once and for all."""


@contextlib.contextmanager
def processes(count: int, threads: int, *, log: Path, lock: IO[str]) -> Iterator[Engine]:
    """`count` worker processes of this machine with `threads` threads each."""
    with ProcessExecutor(count, threads, log=log, lock=lock) as executor:
        yield Engine(executor, count)


@contextlib.contextmanager
def cluster(where: str, count: int, threads: int, *, device: str | None = None) -> Iterator[Engine]:
    """An engine of many machines.

    Args:
        where: ``local`` (a Dask cluster of this machine), ``slurm`` (one of SLURM jobs, configured as dask-jobqueue
            describes), ``mpi`` (the ranks of ``mpiexec -n N python -m mpi4py.futures -m gpunet sweep ...``), or the
            address of a Dask scheduler such as ``tcp://host:8786``.
        count: number of workers of a ``local`` or ``slurm`` cluster; the others have theirs.
        threads: of each worker of a ``local`` cluster.
        device: of the trials; on a Dask cluster whose workers declare GPUs (``--resources GPU=1``), a trial on a GPU
            takes one.

    Raises:
        ConfigError: a package is missing, the scheduler does not answer, or a worker takes several trials at once.
    """
    if where == "mpi":
        with _mpi() as engine:
            yield engine
        return
    _need("distributed", where)
    from distributed import Client

    with contextlib.ExitStack() as stack:
        if where == "local":
            address = stack.enter_context(_local(count, threads))
        elif where == "slurm":
            address = stack.enter_context(_slurm(count))
        else:
            address = where
        try:
            client = stack.enter_context(Client(address, timeout=PATIENCE, set_as_default=False))
        except (OSError, ValueError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise ConfigError(
                f"no Dask scheduler answers at {where!r} within {PATIENCE:.0f} s ({reason}); give the address that "
                "`dask scheduler` prints, such as tcp://host:8786"
            ) from None
        yield _dask(client, device)


def _dask(client: Client, device: str | None) -> Engine:
    from distributed.scheduler import KilledWorker

    if importlib.util.find_spec("bokeh") is not None:
        logger.info("dashboard: %s", client.dashboard_link)
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        address = client.scheduler_info()["address"]
        logger.warning("the cluster has no worker: the trials wait for one (dask worker --nthreads 1 %s)", address)
    for address, facts in workers.items():
        if facts["nthreads"] != 1:
            raise ConfigError(
                f"the worker {address} would run {facts['nthreads']} trials in one process: start workers with "
                "--nthreads 1, several per machine with --nworkers, and NUMBA_NUM_THREADS for the threads of each trial"
            )
    options: dict[str, Any] = {"pure": False}
    if (device or "").startswith("cuda") and any("GPU" in facts["resources"] for facts in workers.values()):
        options["resources"] = {"GPU": 1}
    sent: dict[DataConfig, Any] = {}

    def send(config: DataConfig) -> Any:
        if config not in sent or sent[config].status != "finished":  # lost with the last worker that had them
            data = prepare(config)
            client.wait_for_workers(1)
            name = f"gpunet-data-{hashlib.sha256(pickle.dumps(data)).hexdigest()[:16]}"
            sent[config] = client.scatter({name: data}, broadcast=True)[name]
        return sent[config]

    def lost(error: BaseException) -> WorkerLost | None:
        if isinstance(error, KilledWorker):
            return WorkerLost(f"the workers that had it were lost: {error.last_worker.address}, and others before")
        return None

    return Engine(client.get_executor(**options), math.inf, remote=True, send=send, lost=lost)


@contextlib.contextmanager
def _local(count: int, threads: int) -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        dashboard_address=":0" if importlib.util.find_spec("bokeh") is not None else None,
        env=dict.fromkeys(THREADS, str(threads)),
        silence_logs=logging.ERROR,
    ) as found:
        yield found.scheduler_address


@contextlib.contextmanager
def _slurm(count: int) -> Iterator[str]:
    _need("dask_jobqueue", "slurm")
    from dask_jobqueue import SLURMCluster

    try:
        found = SLURMCluster()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"SLURM jobs cannot be described: {error}; see jobqueue.slurm in dask's configuration"
        ) from None
    with found:
        found.scale(jobs=count)
        yield found.scheduler_address


@contextlib.contextmanager
def _mpi() -> Iterator[Engine]:
    _need("mpi4py", "mpi")
    from mpi4py import MPI
    from mpi4py.futures import MPIPoolExecutor

    if MPI.COMM_WORLD.Get_size() < 2 or "mpi4py.futures" not in sys.modules:
        raise ConfigError(
            "--cluster mpi needs at least two ranks, of which one leads: "
            "mpiexec -n 4 python -m mpi4py.futures -m gpunet sweep ..."
        )
    with MPIPoolExecutor() as executor:
        yield Engine(executor, executor.num_workers, remote=True)


def _need(module: str, where: str) -> None:
    if importlib.util.find_spec(module) is None:
        package = {"dask_jobqueue": "dask-jobqueue"}.get(module, module)
        extra = "mpi" if module == "mpi4py" else "cluster"
        raise ConfigError(f"a sweep on {where!r} needs the package {package}: {pip_install(extra)}")
