"""How ranks are found, and what is said where they cannot reach each other."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gpunet.cli.main import main
from gpunet.devices import CudaStatus
from gpunet.errors import ConfigError, DivergedError, Interrupted
from gpunet.parallel import Serial, launch, world
from gpunet.parallel.launch import announced, device_of_a_rank, exit_code, threads_of_a_rank, together

SWEEP = Path(__file__).parents[2] / "scripts" / "experiments" / "mlp_activations.toml"
VARIABLES = [name for pair in launch._VARIABLES for name in pair]


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_launchers() -> None:
    assert announced({}) is None and isinstance(world(), Serial)
    assert announced({"PMI_SIZE": "1", "PMI_RANK": "0"}) is None
    assert announced({"PMI_SIZE": "4", "PMI_RANK": "3"}) == ("PMI_SIZE", 4, 3)
    assert announced({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a"}) == ("WORLD_SIZE", 2, 1)
    assert announced({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None, "sbatch starts one process"
    assert announced({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}) == ("SLURM_STEP_NUM_TASKS", 8, 5)
    with pytest.raises(ConfigError, match="WORLD_SIZE='two'"):
        announced({"WORLD_SIZE": "two"})


def stub_mpi(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    comm = types.SimpleNamespace(Get_size=lambda: size)
    module = types.SimpleNamespace(COMM_WORLD=comm, Get_library_version=lambda: "Some MPI 9.9\nof today")
    monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=module, __spec__=object()))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", module)  # type: ignore[arg-type]


def test_ranks_of_another_mpi_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Once, by the first of the processes, none of which can reach the others."""
    stub_mpi(monkeypatch, size=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["train", "mlp"]) == 2
    told = capsys.readouterr().err
    assert "WORLD_SIZE=2 says that this is one of 2 processes" in told and "(Some MPI 9.9) knows of 1" in told
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        main(["train", "mlp"])
    assert stop.value.code == 2 and capsys.readouterr().err == ""


def test_without_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package mpi4py: pip install 'gpunet\[mpi\]', or unset PMI_SIZE"):
        world()


@pytest.mark.parametrize("words", [["sweep", str(SWEEP)], ["reproduce", "mlp"]])
def test_other_commands_are_started_once(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PMI_SIZE", "2")
    assert main(words) == 2
    assert "PMI_SIZE=2 says that this is one of 2 processes, but" in capsys.readouterr().err


def rank(index: int, size: int = 2) -> Any:
    settled: list[Any] = []
    found = types.SimpleNamespace(rank=index, size=size, local_rank=index, local_size=size, settled=settled)
    found.abort_at_exit = lambda code: settled.append(("abort", code))
    return found


def test_each_rank_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "cuda_status", lambda: CudaStatus(None, devices=("A", "B")))
    assert [device_of_a_rank(device, rank(1)) for device in ("auto", "cuda", None, "cpu")] == ["cuda:1"] * 3 + ["cpu"]
    assert device_of_a_rank("cuda:1", Serial()) == "cuda:1"
    with pytest.raises(ConfigError, match="--device cuda:1 puts 2 ranks on one GPU"):
        device_of_a_rank("cuda:1", rank(0))
    with pytest.raises(ConfigError, match=r"3 ranks on this machine, but it has 2 GPU\(s\)"):
        device_of_a_rank("cuda", rank(2, 3))
    monkeypatch.setattr(launch, "cuda_status", lambda: CudaStatus(None, devices=("A",)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert device_of_a_rank("cuda", rank(1)) == "cuda:0", "each sees its own alone"
    monkeypatch.setattr(launch, "cuda_status", lambda: CudaStatus("no driver"))
    assert device_of_a_rank("auto", rank(1)) == "auto"


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert threads_of_a_rank(Serial()) is None
    assert [threads_of_a_rank(rank(0, size)) for size in (2, 3, 16)] == [4, 2, 1]
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 4}, raising=False)
    assert threads_of_a_rank(rank(0, 4)) == 2, "the launcher has bound it"
    monkeypatch.setenv("NUMBA_NUM_THREADS", "5")
    assert threads_of_a_rank(rank(0)) is None


@pytest.mark.parametrize(
    ("mine", "codes", "raised"),
    [
        (0, [5, 5], DivergedError),  # the first of those that end with an error speaks
        (1, [5, 5], SystemExit),
        (1, [0, 5], DivergedError),  # alone
        (1, None, DivergedError),  # the others go on: it speaks, and ends them
    ],
)
def test_one_rank_speaks(mine: int, codes: list[int] | None, raised: type[BaseException]) -> None:
    found = rank(mine)
    found.settle = lambda code, patience=None: codes
    with pytest.raises(raised), together(found):
        raise DivergedError("a loss is not finite")
    assert found.settled == ([("abort", 5)] if codes is None else [])


def test_a_rank_that_is_done_ends_with_the_error_of_another() -> None:
    found = rank(0)
    found.settle = lambda code, patience=None: [0, 3]
    with pytest.raises(SystemExit) as stop, together(found):
        pass
    assert stop.value.code == 3


def test_exit_codes() -> None:
    assert [exit_code(error) for error in (Interrupted(15), KeyboardInterrupt(), ValueError(), SystemExit(4))] == [
        143,
        130,
        1,
        4,
    ]
