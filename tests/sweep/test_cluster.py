"""Sweeps on a Dask cluster and on MPI ranks: the table is that of the worker processes of one machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from gpunet.cli.main import main
from gpunet.errors import ConfigError
from gpunet.experiments.config import to_toml
from gpunet.sweep import run as sweep_run
from gpunet.sweep import run_sweep, work
from gpunet.sweep.engines import cluster
from gpunet.sweep.search import search_of
from gpunet.sweep.trial import read_outcome
from gpunet.sweep.work import Order, run_order, store
from tests.sweep.conftest import Declare
from tests.sweep.test_sweep import lines

ROOT = Path(__file__).parents[2]
AXES = 'activation = ["relu", "tanh", "gelu"]\ndropout = [0.1, 0.2]'


@pytest.fixture(scope="module")
def dask() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="no Dask: pip install -e '.[cluster]'")
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as found:
        yield found


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Dask, about its lost worker
def test_a_worker_lost_and_one_added_give_the_serial_table(dask: Any, declare: Declare, tmp_path: Path) -> None:
    """12 trials; one of three workers is killed in the middle of them, and another joins."""
    sweep = declare(AXES)
    run_sweep(sweep, tmp_path / "serial", device="cpu", progress=False)
    victim = next(iter(dask.workers.values())).pid
    killed = []

    def disturb() -> None:
        limit = time.monotonic() + 60
        while not list((tmp_path / "out").glob("trials/*/last.safetensors")) and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        dask.scale(4)
        killed.append(victim)

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    result = run_sweep(sweep, tmp_path / "out", device="cpu", where=dask.scheduler_address, progress=False)
    disturbing.join()
    assert killed and len(result.rows) == 12
    assert lines(tmp_path / "out") == lines(tmp_path / "serial")
    assert all(row.outcome.ok for row in result.rows)
    assert not (tmp_path / "out" / work.TOKEN).exists()


@pytest.mark.slow
def test_workers_that_do_not_see_the_folder_send_the_files_back(
    dask: Any, declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = declare("dropout = [0.1, 0.2]", "evaluate_test = true")
    here = run_sweep(sweep, tmp_path / "here", device="cpu", progress=False, keep_checkpoints=True)
    write = sweep_run.write_text_atomic

    def elsewhere(path: Path, text: str) -> None:
        write(path, "of another folder" if path.name == work.TOKEN else text)

    monkeypatch.setattr(sweep_run, "write_text_atomic", elsewhere)
    there = run_sweep(
        sweep,
        tmp_path / "there",
        device="cpu",
        where=dask.scheduler_address,
        progress=False,
        keep_checkpoints=True,
    )
    assert lines(tmp_path / "there") == lines(tmp_path / "here") and there.test == here.test
    for trial in (tmp_path / "here" / "trials").iterdir():
        other = tmp_path / "there" / "trials" / trial.name
        assert (other / "config.toml").read_bytes() == (trial / "config.toml").read_bytes()
        assert not (other / ".lock").exists()


def test_a_refused_scheduler(declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="no Dask: pip install -e '.[cluster]'")
    monkeypatch.setattr("gpunet.sweep.engines.PATIENCE", 0.5)
    sweep = declare("dropout = [0.1]")
    for address in ("tcp://127.0.0.1:1", "nonsense://", "127.0.0.1"):
        with pytest.raises(ConfigError, match="no Dask scheduler answers at"):
            run_sweep(sweep, tmp_path / "out", where=address, progress=False)
    assert not list((tmp_path / "out").glob("trials/*"))


@pytest.mark.parametrize("options", [{"workers": 2}, {"threads": 1}])
def test_workers_and_threads_of_a_foreign_cluster_are_its_own(
    options: dict[str, int], declare: Declare, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"^{next(iter(options))}=\d is of "):
        run_sweep(declare("dropout = [0.1]"), tmp_path / "out", where="tcp://127.0.0.1:1", progress=False, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "where, package", [("tcp://host:1", "distributed"), ("mpi", "mpi4py"), ("local", "distributed")]
)
def test_a_missing_package(where: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}: pip install '?"), cluster(where, 1, 1):
        pass


def test_mpi_alone(declare: Declare, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mpi4py", reason="no MPI: pip install -e '.[mpi]'")
    declare("dropout = [0.1]")
    words = ["sweep", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--cluster", "mpi", "-q"]
    command = [sys.executable, "-m", "gpunet", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), text=True, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert "mpiexec -n 4 python -m mpi4py.futures -m gpunet sweep" in done.stderr


@pytest.mark.slow
def test_mpi_ranks(declare: Declare, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py", reason="no MPI: pip install -e '.[mpi]'")
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("no mpiexec: pip install -e '.[mpi]'")
    sweep = declare("dropout = [0.1]")
    run_sweep(sweep, tmp_path / "serial", device="cpu", progress=False)
    words = ["sweep", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--cluster", "mpi", "-q"]
    command = [mpiexec, "-n", "2", sys.executable, "-m", "mpi4py.futures", "-m", "gpunet", *map(str, words)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert lines(tmp_path / "out") == lines(tmp_path / "serial")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "GPUNET_DEVICE": "cpu", "NUMBA_NUM_THREADS": "1"}


def order_of(declare: Declare, folder: Path, **more: Any) -> Order:
    sweep = declare("dropout = [0.1]")
    (point,) = search_of(sweep).more([])
    config = sweep.trials(point)[0].config
    assert config is not None
    return Order(to_toml(config), home=str(folder), folder="trials/one", device="cpu", **more)


def test_an_order_out_of_sight(declare: Declare, tmp_path: Path) -> None:
    """The files of a trial come back, the outcome last, and nothing is written to the sweep's folder by the worker."""
    (tmp_path / "home").mkdir()
    report = run_order(order_of(declare, tmp_path / "home", token="x"))
    assert report.outcome.ok and not list((tmp_path / "home").iterdir())
    assert report.files is not None and not [name for name in report.files if name.endswith(".safetensors")]
    store(report, tmp_path / "home" / "trials" / "one")
    assert read_outcome(tmp_path / "home" / "trials" / "one") == report.outcome


def test_an_order_of_another_version(declare: Declare, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a worker has gpunet .*, the sweep 0\.0: install the same version"):
        run_order(order_of(declare, tmp_path, version="0.0"))


def test_a_trial_that_nobody_waits_for_stops(declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []

    def abandoned(record: Any) -> None:
        epochs.append(record["epoch"])
        raise work._Abandoned

    order = order_of(declare, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(work, "after_epoch", abandoned)
        with pytest.raises(CancelledError):
            run_order(order)
    assert epochs == [1] and read_outcome(tmp_path / "trials/one") is None, "it is no outcome of the trial"
    assert run_order(order).outcome.ok, "and is resumed"


def test_command_line_refuses_two_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "x.toml", "--cluster", "local", "--scheduler", "tcp://a:1"]) == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the maximum of 2 iterations")
def test_a_grid_search_on_the_cluster_is_the_local_one(dask: Any) -> None:
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV

    from gpunet.sklearn import MLPClassifier

    images, labels = load_digits(return_X_y=True)

    def searched() -> Any:
        model = MLPClassifier((8,), max_iter=2, random_state=0, device="cpu")
        return GridSearchCV(model, {"learning_rate_init": [0.001, 0.01]}, cv=2).fit(images[:300], labels[:300])

    with joblib.parallel_config("loky", n_jobs=1):
        here = searched()
    with dask.get_client(), joblib.parallel_config("dask"):
        there = searched()
    assert there.best_params_ == here.best_params_
    assert there.cv_results_["mean_test_score"].tolist() == here.cv_results_["mean_test_score"].tolist()
    assert there.predict_proba(images).tobytes() == here.predict_proba(images).tobytes()
