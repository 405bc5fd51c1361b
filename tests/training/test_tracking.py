"""Trackers: what reaches a service, in which order, on a resume, and what happens when it fails."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gpunet.errors import ConfigError, Interrupted
from gpunet.training import Callback, HybridTrainingConfig, MLflow, Tracker, TrainingConfig, Wandb, fit_hybrid
from gpunet.training.history import Record
from gpunet.training.trainer import Trainer
from tests.training.problems import loaders, make_trainer


class FakeWandb(ModuleType):
    """A module with the documented ``init``, ``log``, ``save`` and ``finish`` of wandb, which notes its calls."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__("fake_wandb")
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.saved: list[str] = []
        self.ended: list[int | None] = []
        self.fails_at = fails_at

    def init(
        self,
        *,
        project: str,
        name: str | None,
        config: dict[str, Any],
        id: str | None = None,  # noqa: A002 - wandb's name
        resume: str | None = None,
    ) -> Any:
        print("a service may print")
        if self.fails_at == 0:
            raise OSError("no route to host")
        self.begun.append({"project": project, "name": name, "config": config, "id": id, "resume": resume})
        return SimpleNamespace(id=id or f"run{len(self.begun)}")

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        if self.fails_at is not None and len(self.logged) + 1 >= self.fails_at:
            raise ConnectionError("server\ngone")
        assert step is not None
        self.logged.append((step, values))

    def save(self, path: str) -> None:
        self.saved.append(Path(path).name)

    def finish(self, exit_code: int | None = None) -> None:
        self.ended.append(exit_code)


class StopIn(Callback):
    """Interrupts a training at the end of an epoch, after the trackers and before the checkpoint."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        if record["epoch"] == self.epoch:
            raise Interrupted()


def test_settings_records_and_best_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = FakeWandb()
    trainer = make_trainer(tmp_path / "runs" / "one", (Wandb(service, files=True),), epochs=2)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    records = trainer.fit().records
    (begun,) = service.begun
    assert (begun["project"], begun["name"], begun["resume"]) == ("gpunet", "one", None)
    assert begun["config"]["training"]["lr"] == 5e-3 and begun["config"]["model"]["filters"] == (4, 8)
    best = {"best_epoch": float(trainer.best_epoch), "best_validation_accuracy": trainer.best_score}
    assert service.logged == [(1, records[0]), (2, records[1]), (2, best)]
    assert service.saved == ["checkpoint.safetensors"] and service.ended == [None]
    assert capsys.readouterr().out == ""


def test_the_project_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "shoes")
    service = FakeWandb()
    make_trainer(callbacks=(Wandb(service, name="a name"),), epochs=1).fit()
    assert [(one["project"], one["name"]) for one in service.begun] == [("shoes", "a name")]


def test_a_resume_goes_on_in_the_same_run_and_sends_each_epoch_once(tmp_path: Path) -> None:
    service = FakeWandb()
    with pytest.raises(Interrupted):
        make_trainer(tmp_path, (Wandb(service), StopIn(2)), epochs=3).fit()
    assert service.ended == [1], "not finished"
    resumed = make_trainer(tmp_path, (Wandb(service),), epochs=3)
    assert resumed.resume() and resumed.epoch == 1
    resumed.fit()
    assert [one["id"] for one in service.begun] == [None, "run1"] and service.begun[1]["resume"] == "allow"
    assert [step for step, values in service.logged if "epoch" in values] == [1, 2, 3]
    again = make_trainer(tmp_path, (Wandb(service),), epochs=1)
    again.fit()  # not resumed: another run
    assert service.begun[2]["id"] is None and service.logged[-2][0] == 1


def test_a_damaged_state_begins_a_new_run_with_all_epochs(tmp_path: Path) -> None:
    service = FakeWandb()
    make_trainer(tmp_path, (Wandb(service),), epochs=1).fit()
    (tmp_path / "tracking-fake_wandb.json").write_text('{"id": 3, "sent": [1]}')
    resumed = make_trainer(tmp_path, (Wandb(service),), epochs=2)
    assert resumed.resume()
    resumed.fit()
    assert [one["id"] for one in service.begun] == [None, None]
    assert [step for step, values in service.logged if "epoch" in values] == [1, 1, 2]


def test_a_service_by_name_alone(tmp_path: Path) -> None:
    """As Trackio: no ids, no exit codes, and runs are found by their names."""
    begun: list[dict[str, Any]] = []

    def init(project: str, name: str | None = None, config: Any = None, resume: str = "never") -> Any:
        begun.append({"name": name, "resume": resume})
        return SimpleNamespace(name=name or "dainty-1")

    module = SimpleNamespace(__name__="plain", init=init, log=lambda metrics, step=None: None, finish=lambda: None)
    for epochs in (1, 2):
        trainer = make_trainer(tmp_path, (Wandb(module, files=True),), epochs=epochs)  # type: ignore[arg-type]
        trainer.resume()
        trainer.fit()
    assert begun == [{"name": tmp_path.name, "resume": "never"}, {"name": tmp_path.name, "resume": "allow"}]


def test_a_service_that_fails_ends_the_tracking_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = FakeWandb(fails_at=2)
    with caplog.at_level(logging.WARNING, "gpunet"):
        tracked = make_trainer(tmp_path, (Wandb(service, files=True),), epochs=3)
        tracked.fit()
    plain = make_trainer(epochs=3)
    plain.fit()
    assert len(tracked.history.records) == 3 and (tracked.flat.values == plain.flat.values).all()
    assert [record.getMessage() for record in caplog.records] == [
        "fake_wandb fails, so the rest of this run is not sent there: ConnectionError: server gone"
    ]
    assert [step for step, _ in service.logged] == [1] and service.saved == [] and service.ended == []


def test_a_service_that_cannot_be_used_is_said_before_the_training() -> None:
    trainer = make_trainer(callbacks=(Wandb(FakeWandb(fails_at=0)),), epochs=1)
    with pytest.raises(
        ConfigError, match=r"fake_wandb cannot be used \(OSError: no route to host\): see to its server"
    ):
        trainer.fit()
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("make", "package"), [(MLflow, "mlflow"), (Wandb, "wandb"), (lambda: Wandb("trackio"), "trackio")]
)
def test_a_missing_package(make: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}, .*pip install '?{package}"):
        make()


def test_the_stages_of_a_hybrid_are_one_run() -> None:
    from gpunet.models import HybridConfig

    service = FakeWandb()
    config = HybridConfig(filters=(4,), classifier_hidden=(8,))
    with Wandb(service) as tracker:
        fit_hybrid(
            config, TrainingConfig(epochs=2, batch_size=32), HybridTrainingConfig(classifier_epochs=1),
            **loaders(), classes=4, callbacks=lambda stage: [tracker],
        )  # fmt: skip
        tracker.log_result({"test_accuracy": 0.5, "device": "cpu"})
        assert service.ended == []
    assert len(service.begun) == 1 and service.ended == [None]
    steps = [
        (step, key)
        for step, values in service.logged
        for key in values
        if key.endswith(("train_loss", "test_accuracy"))
    ]
    assert steps == [(1, "cnn/train_loss"), (2, "cnn/train_loss"), (3, "classifier/train_loss"), (3, "test_accuracy")]


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store of files, read by MLflow's own client."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "an experiment")
    uri = (tmp_path / "store").as_uri()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with pytest.raises(Interrupted):
        make_trainer(run_dir, (MLflow(uri=uri, files=True), StopIn(2)), epochs=3).fit()
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("an experiment").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("run", "KILLED")
    trainer = make_trainer(run_dir, (MLflow(uri=uri, files=True),), epochs=3)
    assert trainer.resume()
    records = trainer.fit().records
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.lr"] == "0.005" and run.data.params["model.filters"] == "(4, 8)"
    found = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "validation_loss")]
    assert found == [(record["epoch"], record["validation_loss"]) for record in records]
    assert run.data.metrics["best_validation_accuracy"] == trainer.best_score
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["checkpoint.safetensors"]


def test_mlflow_by_its_documented_client(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Client:
        def __init__(self, tracking_uri: str | None = None) -> None:
            calls.append(("client", tracking_uri))

        def get_experiment_by_name(self, name: str) -> Any:
            return None

        def create_experiment(self, name: str) -> str:
            calls.append(("experiment", name))
            return "7"

        def create_run(self, experiment_id: str, run_name: str | None = None) -> Any:
            calls.append(("run", experiment_id, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            calls.append(("params", dict(params)) if params else ("metrics", run_id, list(metrics)))

        def set_terminated(self, run_id: str, status: str | None = None) -> None:
            calls.append(("end", run_id, status))

    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient = Client  # type: ignore[attr-defined]
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)  # type: ignore[attr-defined]
    entities.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    tracker: Tracker = MLflow(uri="http://here", name="n")
    trainer = make_trainer(callbacks=(tracker,), epochs=1)
    (record,) = trainer.fit().records
    assert calls[:3] == [("client", "http://here"), ("experiment", "gpunet"), ("run", "7", "n")]
    assert calls[3][0] == "params" and calls[3][1]["training.epochs"] == "1"
    assert calls[4] == ("metrics", "r", [(key, float(value), 1) for key, value in record.items()])
    assert [call[0] for call in calls[5:]] == ["metrics", "end"] and calls[-1][2] == "FINISHED"
