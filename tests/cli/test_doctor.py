"""``gpunet doctor``: what it finds, what it calls broken."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numba
import numpy as np
import pytest

import gpunet.data
import gpunet.ops.pool2d
from gpunet.backend import CPU, Backend
from gpunet.devices import CudaStatus
from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU, a cache in the test's folder, and the data set in none."""
    monkeypatch.setattr("gpunet.devices.cuda_status", lambda: CudaStatus("CuPy is not installed: pip ..."))
    monkeypatch.setattr(gpunet.data, "find", lambda path=None: None)
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path / "cache"))


def test_healthy_machine(gpunet_command: Command) -> None:
    outcome = gpunet_command("doctor", "-q", "--device", "cpu")
    assert outcome.code == 0, outcome
    parts = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert parts["python"].startswith(platform.python_version())
    assert parts["numpy"].startswith(f"{np.__version__}, BLAS ")
    assert parts["numba"].startswith(f"{numba.__version__}, ")
    assert parts["cuda"] == "not usable: CuPy is not installed: pip ..."
    assert parts["data"].endswith("gpunet data fetch")
    assert parts["cache"].endswith("(writable)")
    assert outcome.out.splitlines()[-1] == "gpunet can run on the CPU"


def test_json(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpunet.data, "find", lambda path=None: Path("/data"))
    (line,) = gpunet_command("doctor", "--json").out.splitlines()
    report = json.loads(line)
    assert report["ok"] is True and report["problems"] == []
    assert report["numpy"]["version"] == np.__version__
    assert report["numba"]["threads"] == numba.get_num_threads()
    assert report["numba"]["threading_layer"] == numba.threading_layer()
    missing = {"cupy": None, "driver": None, "runtime": None, "devices": []}
    assert report["cuda"] == {**missing, "problem": "CuPy is not installed: pip ..."}
    assert report["data"] == {"path": "/data", "problem": None}
    assert report["cache"]["path"].startswith(str(tmp_path / "cache"))
    assert report["cpu"]["cores"] >= 1


def test_cpu_features_are_the_kernels(gpunet_command: Command) -> None:
    """The operating system lists the same features under its own names."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("this system does not list its CPU's flags")
    report = json.loads(gpunet_command("doctor", "--json").out)
    assert ("AVX2" in report["cpu"]["features"]) == ("avx2" in flags.split())
    assert ("AVX-512" in report["cpu"]["features"]) == ("avx512f" in flags.split())


@pytest.mark.parametrize("works", [True, False])
def test_gpus_are_named_and_tried(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    status = CudaStatus(None, "14.2.0", ("NVIDIA H200", "NVIDIA H200"), "13.0", "12.8")

    def pretend(device: str | None = None) -> Backend:
        if device == "cuda:1" and not works:
            raise RuntimeError("NVRTC_ERROR_INVALID_OPTION\n-arch=sm_90")
        return CPU

    monkeypatch.setattr("gpunet.devices.cuda_status", lambda: status)
    monkeypatch.setattr("gpunet.devices.get_backend", pretend)
    (line,) = (line for line in gpunet_command("doctor").out.splitlines() if line.startswith("cuda "))
    named = "cuda      CuPy 14.2.0, driver for CUDA 13.0, runtime 12.8, NVIDIA H200, NVIDIA H200"
    problem = ": cuda:1 cannot run a kernel: RuntimeError: NVRTC_ERROR_INVALID_OPTION -arch=sm_90"
    assert line == named + ("" if works else problem)


def test_device_in_the_environment_is_not_asked_for(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUNET_DEVICE", "cuda")
    assert gpunet_command("doctor").code == 0


def test_device_asked_for_but_unusable(gpunet_command: Command) -> None:
    outcome = gpunet_command("doctor", "--device", "cuda", "-q")
    assert outcome.code == 4
    assert "gpunet can run on the CPU" in outcome.out, "the report comes first"
    assert outcome.err.startswith("gpunet: error: device 'cuda' is not available: CuPy is not installed")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("how", ["wrong", "raises"])
def test_broken_kernels(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def broken(x: np.ndarray, size: int) -> tuple[np.ndarray, None]:
        if how == "raises":
            raise OSError("libgomp.so.1: not found")
        return np.zeros((1, 2, 2, 1)), None

    monkeypatch.setattr(gpunet.ops.pool2d, "max_pool2d", broken)
    outcome = gpunet_command("doctor", "-q", "--device", "cpu")
    assert outcome.code == 1
    assert "problem   numba does not work: " in outcome.out
    assert ("instead of [5, 7, 13, 15]" if how == "wrong" else "OSError: libgomp.so.1: not found") in outcome.out
    assert outcome.out.splitlines()[-1] == "gpunet cannot run until these problems are fixed"
    assert json.loads(gpunet_command("doctor", "--json").out)["ok"] is False


def test_a_variable_that_keeps_kernels_from_running(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "0")
    outcome = gpunet_command("doctor", "-q", "--device", "cpu")
    assert outcome.code == 1
    (line,) = (line for line in outcome.out.splitlines() if line.startswith("problem"))
    assert line.startswith("problem   numba does not work: the environment variable NUMBA_NUM_THREADS must be")
    assert "reinstall" not in line


def test_cache_that_cannot_be_made(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path / "file" / "cache"))
    outcome = gpunet_command("doctor", "-q", "--device", "cpu")
    assert outcome.code == 0, "the CPU works without it"
    assert f"not usable: {tmp_path / 'file'} is not writable; set GPUNET_CACHE" in outcome.out
