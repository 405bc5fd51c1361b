"""How this process was started: alone, or as one of several ranks; and what of the machine each rank takes."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from gpunet.devices import cuda_status
from gpunet.errors import ConfigError, GpunetError, Interrupted
from gpunet.parallel.communicator import Communicator, MpiCommunicator, Serial

logger = logging.getLogger("gpunet")

PATIENCE = 4.0
"""Seconds within which the other ranks must end as well after an error, or else they are ended."""

_VARIABLES = (
    ("PMI_SIZE", "PMI_RANK"),  # MPICH, Intel MPI
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    (
        "SLURM_STEP_NUM_TASKS",
        "SLURM_PROCID",
    ),  # srun; SLURM_NTASKS is also there where sbatch starts one process
    ("WORLD_SIZE", "RANK"),  # torchrun
)
"""What launchers tell each process: the variables of the number of all and of its own."""


class Announced(NamedTuple):
    """What the environment says of the ranks."""

    variable: str
    size: int
    rank: int


def announced(environment: Mapping[str, str] | None = None) -> Announced | None:
    """What the environment says, if that is more than one rank.

    Raises:
        ConfigError: a variable is no number.
    """
    variables = os.environ if environment is None else environment
    for name, own in _VARIABLES:
        try:
            size, rank = int(variables.get(name, 1)), int(variables.get(own, 0))
        except ValueError:
            raise ConfigError(
                f"the environment variables {name}={variables.get(name)!r} and {own}={variables.get(own)!r} must be "
                "whole numbers, as mpiexec sets them: unset them to train in one process"
            ) from None
        if size > 1:
            return Announced(name, size, rank)
    return None


def world() -> Communicator:
    """The ranks that this process was started with; MPI is only used where the environment says that there are several.

    Raises:
        ConfigError: there are, but mpi4py is missing or belongs to another MPI.
    """
    found = announced()
    if found is None:
        return Serial()
    here = f"{found.variable}={found.size} says that this is one of {found.size} processes"
    launcher = Path(sys.executable).parent / "mpiexec"
    advice = f"start them with {launcher if launcher.exists() else 'its mpiexec'}"
    alone = f"or unset {found.variable} to train in one process"
    if importlib.util.find_spec("mpi4py") is None:
        raise ConfigError(f"{here}, which needs the package mpi4py: pip install 'gpunet[mpi]', {alone}")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(f"{here}, but mpi4py fails to load ({error}): pip install 'gpunet[mpi]', {alone}") from None
    size = MPI.COMM_WORLD.Get_size()
    if size != found.size:
        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise ConfigError(
            f"{here}, but the MPI of mpi4py ({library}) knows of {size}: it belongs to another MPI than the one that "
            f"started the processes, or they were started without one, as by torchrun. For that MPI, {advice}; for "
            f"another, build mpi4py with its mpicc (pip install --no-binary mpi4py mpi4py); {alone}"
        )
    return MpiCommunicator(MPI.COMM_WORLD)


def threads_of_a_rank(communicator: Communicator) -> int | None:
    """The number of CPU threads of each rank, so that those of a machine share its cores; None: as in one process."""
    if communicator.size == 1 or "NUMBA_NUM_THREADS" in os.environ:
        return None
    total = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return mine if mine < total else max(1, total // communicator.local_size)  # fewer: the launcher has shared them out


def device_of_a_rank(device: str | None, communicator: Communicator) -> str | None:
    """The device of this rank, if all were given `device`: on a GPU, each rank of a machine has its own.

    Raises:
        ConfigError: the ranks would share a GPU.
    """
    wanted = device or os.environ.get("GPUNET_DEVICE") or "auto"
    if communicator.size == 1 or wanted == "cpu":
        return device
    if wanted.startswith("cuda:") and communicator.local_size > 1:
        raise ConfigError(f"--device {wanted} puts {communicator.local_size} ranks on one GPU: give --device cuda")
    status = cuda_status()
    if wanted not in ("auto", "cuda") or status.problem:
        return device  # which says what is wrong, or falls back
    count = len(status.devices)
    if count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
        return "cuda:0"  # the launcher has shared them out
    if communicator.local_size > count:
        raise ConfigError(
            f"{communicator.local_size} ranks on this machine, but it has {count} GPU(s): start one rank a GPU, or "
            "give --device cpu"
        )
    return f"cuda:{communicator.local_rank}"


def check_alike(communicator: Communicator, facts: Mapping[str, object]) -> None:
    """Check that `facts`, by name, are the same on all ranks.

    Raises:
        ConfigError: something differs; the message names it.
    """
    found = communicator.exchange(dict(facts))
    for name in facts:
        values = [each.get(name) for each in found]
        for rank, value in enumerate(values):
            if value != values[0]:
                shown = f" ({values[0]} and {value})" if len(f"{values[0]}{value}") < 80 else ""
                raise ConfigError(
                    f"rank {rank} has another {name} than rank 0{shown}: give all ranks the same gpunet, data and "
                    "settings"
                )


@contextlib.contextmanager
def together(communicator: Communicator) -> Iterator[None]:
    """Ends all ranks with one message if the block raises on one of them.

    If all end with an error, the first of those speaks and the others end silently (SystemExit). If the others go on,
    or wait for this rank, it speaks, and they are ended when it exits.
    """
    if communicator.size == 1:
        yield
        return
    try:
        yield
    except BaseException as error:
        code = exit_code(error)
        codes = communicator.settle(code, PATIENCE)
        if codes is None:
            communicator.abort_at_exit(code)
        elif any(codes[: communicator.rank]):
            raise SystemExit(code) from error
        raise
    codes = communicator.settle(0)
    assert codes is not None
    if any(codes):  # the one that speaks is not this one
        raise SystemExit(max(codes))


def exit_code(error: BaseException) -> int:
    """That of the command line after `error`."""
    if isinstance(error, (Interrupted, GpunetError)):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 130 if isinstance(error, KeyboardInterrupt) else 1
