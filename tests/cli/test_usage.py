"""Everything that can be wrong with a command line: one line on stderr, the right exit code, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpunet.devices import CudaStatus
from tests.cli.conftest import Command, assert_refused
from tests.cli.fake_run import FakeRun
from tests.filesystem import read_only_folder

pytestmark = pytest.mark.usefixtures("fake_run")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--json", "--json needs a command, or --version"),
        ("trian", "unknown command 'trian': expected train, evaluate, predict, sweep, features, reproduce, export, "
         "import, report, doctor, warmup, data, completion (did you mean"),
        ("--verbos", "unknown option --verbos of gpunet (did you mean '--verbose'?)"),
        ("-x", "unrecognized arguments: -x"),
        ("train", "no model given: expected mlp, cnn, hybrid"),
        ("train cn", "unknown model 'cn': expected mlp, cnn, hybrid (did you mean 'cnn'?)"),
        ("train --preset quick cn", "unknown model 'cn'"),
        ("train cnn mlp", "unrecognized arguments: mlp"),
        ("train --lr 1 cnn", "unknown option --lr of gpunet train: a model's options follow its name: "
         "gpunet train mlp --lr"),
        ("train --no-flip cnn", "gpunet train mlp --no-flip"),
        ("train --epohcs 3 cnn", "unknown option --epohcs of gpunet train (did you mean '--epochs'?)"),
        ("train cnn --epohcs 3", "unknown option --epohcs of gpunet train cnn (did you mean '--epochs'?)"),
        ("train cnn --epohcs=3", "unknown option --epohcs of gpunet train cnn (did you mean '--epochs'?)"),
        ("train cnn --epoch 3", "(did you mean '--epochs'?)"),
        ("train mlp --filters 3", "unknown option --filters of gpunet train mlp: it is an option of a cnn and a "
         "hybrid, not of an mlp"),
        ("train cnn --qqqq", "unknown option --qqqq of gpunet train cnn"),
        ("train cnn --batch-size -5", "--batch-size must be at least 1, got -5"),
        ("train cnn --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("train cnn --batch-size x", "--batch-size must be a whole number, got 'x'"),
        ("train cnn --batch-size 1.5", "--batch-size must be a whole number, got '1.5'"),
        ("train cnn --batch-size", "--batch-size: expected one argument"),
        ("train cnn --lr -1", "--lr must be greater than 0, got -1.0"),
        ("train cnn --lr nan", "--lr must be greater than 0, got nan"),
        ("train cnn --lr inf", "--lr must be greater than 0, got inf"),
        ("train cnn --lr fast", "--lr must be a number, got 'fast'"),
        ("train cnn --dropout 1", "--dropout must be at least 0 and less than 1, got 1.0"),
        ("train cnn --seed 4294967296", "--seed must be at least 0 and at most 4294967295, got 4294967296"),
        ("train cnn --filters 8 -1", "--filters must be at least 1, got -1"),
        ("train cnn --filters 8 x", "--filters must be a whole number, got 'x'"),
        ("train cnn --optimizer adm", "--optimizer must be one of sgd, adam, adamw; got 'adm' (did you mean 'adam'?)"),
        ("train cnn --flip yes", "unrecognized arguments: yes"),
        ("train cnn --preset quik", "--preset must be one of default, quick, baseline, best; got 'quik' (did you mean "
         "'quick'?)"),
        ("train cnn --config none.toml", "cannot read the configuration none.toml: No such file or directory"),
        ("train cnn --config .", "cannot read the configuration .: Is a directory"),
        ("train cnn --name a/b", "--name must be up to 100 letters, digits and ._+=- and start with a letter or digit, "
         "got 'a/b'"),
        ("train cnn --name=", "--name must be"),
        ("train cnn --name ..", "--name must be"),
        ("train cnn --threads 0", "--threads must be at least 1 and at most 1024, got 0"),
        ("train cnn --threads -1", "--threads must be at least 1 and at most 1024, got -1"),
        ("train cnn --threads 1025", "--threads must be at least 1 and at most 1024, got 1025"),
        ("train cnn --threads two", "--threads must be a whole number, got 'two'"),
        ("train cnn --device gpu", "unknown device 'gpu': expected auto, cpu, cuda or cuda:N"),
        ("train cnn --device cuda:-1", "unknown device 'cuda:-1'"),
        ("train --resume none", "there is no run folder or checkpoint none"),
        ("train --resume .", "is not a run folder: it has no config.toml"),
        ("train cnn --resume none --lr 1 --preset quick", "--preset, --lr cannot be given with --resume"),
        ("train --resume none --name x --runs-dir y --config z", "--config, --name, --runs-dir cannot be given"),
        ("evaluate", "the following arguments are required: RUN_DIR_OR_CHECKPOINT"),
        ("evaluate none", "there is no run folder or checkpoint none"),
        ("evaluate . --split tset", "--split must be one of test, validation, train; got 'tset' (did you mean "
         "'test'?)"),
        ("evaluate . --figure", "unknown option --figure of gpunet evaluate (did you mean '--figures'?)"),
        ("predict x.png", "there is no trained model in runs/: train one, or give its run folder with --run"),
        ("predict --rnu . x.png", "unknown option --rnu of gpunet predict (did you mean '--run'?)"),
        ("predict --run .", "the following arguments are required: IMAGE"),
        ("predict --run none x.png", "there is no run folder or checkpoint none"),
        ("predict --run . --top 0 x.png", "--top must be at least 1"),
        ("predict --run . --invert maybe x.png", "--invert must be one of auto, always, never; got 'maybe'"),
        ("sweep", "the following arguments are required: FILE"),
        ("sweep none.toml", "cannot read the configuration none.toml: No such file or directory"),
        ("sweep x.toml --workers 0", "--workers must be at least 1"),
        ("features none", "there is no run folder or checkpoint none"),
        ("reproduce", "the following arguments are required: {mlp,cnn,hybrid}"),
        ("reproduce cn", "the model must be one of mlp, cnn, hybrid; got 'cn' (did you mean 'cnn'?)"),
        ("reproduce mlp --seeds 0", "--seeds must be at least 1"),
        ("report", "the following arguments are required: RUN"),
        ("report none", "there is no run folder or checkpoint none"),
        ("report . none", "there is no run folder or checkpoint none"),
        ("report . --split train", "--split must be one of validation, test; got 'train'"),
        ("report . . --tsne", "--tsne is only for the report of a single run, but several are given"),
        ("report . --output x", "unknown option --output of gpunet report (did you mean '--out'?)"),
        ("doctor --threads 2", "unknown option --threads of gpunet doctor"),
        ("doctor now", "unrecognized arguments: now"),
        ("data", "no action given: expected gpunet data fetch, verify, path or pack"),
        ("data ftech", "unknown action 'ftech': expected fetch, verify, path, pack (did you mean 'fetch'?)"),
        ("data fetch --path x", "unknown option --path of gpunet data fetch"),
    ],
)  # fmt: skip
def test_usage_error(gpunet_command: Command, fake_run: FakeRun, line: str, message: str) -> None:
    assert_refused(gpunet_command(*line.split()), 2, message)
    assert fake_run.calls == []
    assert not Path("runs").exists(), "a command that cannot work left a folder behind"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[training]\nepochs = = 3\n", "run.toml is not valid TOML: Invalid value (at line 2, column 10)"),
        ("[training]\nepohcs = 3\n", "run.toml: [training] has no option 'epohcs' (did you mean 'epochs'?)"),
        ("[model]\nepochs = 3\n", "run.toml: [model] has no option 'epochs'; move it to [training]"),
        ("[training]\nlr = -1\n", "run.toml: [training] lr must be greater than 0, got -1.0"),
        ("[training]\nlr = 'x'\n", "run.toml: [training] lr must be of type float, got 'x'"),
        ('[model]\nkind = "mlp"\n', "run.toml configures an mlp, but a cnn was requested"),
    ],
)
def test_bad_configuration_file(gpunet_command: Command, content: str, message: str) -> None:
    Path("run.toml").write_text(content, encoding="utf-8")
    assert_refused(gpunet_command("train", "cnn", "--config", "run.toml"), 2, message)


def test_long_values_are_shortened(gpunet_command: Command) -> None:
    for value in ("9" * 5000, "x" * 5000):
        outcome = gpunet_command("train", "cnn", "--epochs", value)
        assert_refused(outcome, 2, "--epochs must")
        assert len(outcome.err) < 250


@pytest.mark.parametrize("line", ["train cnn", "evaluate .", "predict --run . image.png"])
def test_unusable_device(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    status = CudaStatus("CuPy is not installed")
    monkeypatch.setattr("gpunet.devices.cuda_status", lambda: status)
    Path("image.png").touch()
    outcome = gpunet_command(*line.split(), "--device", "cuda")
    assert_refused(outcome, 4, "device 'cuda' is not available: CuPy is not installed")
    monkeypatch.setenv("GPUNET_DEVICE", "cuda:0")
    assert_refused(gpunet_command(*line.split()), 4, "device 'cuda:0' (the environment variable GPUNET_DEVICE) is not")
    assert not Path("runs").exists()


def test_missing_image(gpunet_command: Command, fake_run: FakeRun) -> None:
    Path("good.png").touch()
    assert_refused(gpunet_command("predict", "--run", ".", "good.png", "bad.png"), 3, "image bad.png: no such file")
    assert_refused(gpunet_command("predict", "--run", ".", "good.png", "."), 3, "image .: not a file")
    assert fake_run.calls == []


def test_read_only_folder(gpunet_command: Command) -> None:
    with read_only_folder() as folder:
        outcome = gpunet_command("train", "cnn", "-q", "--runs-dir", folder / "runs")
    assert_refused(outcome, 1, f"cannot read or write {folder / 'runs'}: Permission denied")


def test_runs_folder_is_a_file(gpunet_command: Command) -> None:
    Path("runs-file").touch()
    outcome = gpunet_command("train", "cnn", "-q", "--runs-dir", "runs-file")
    assert_refused(outcome, 1, "cannot read or write runs-file: File exists")


@pytest.mark.parametrize("line", ["train cnn", "evaluate .", "predict --run . image.png", "warmup"])
@pytest.mark.parametrize(
    ("name", "value"), [("NUMBA_NUM_THREADS", "0"), ("NUMBA_DISABLE_JIT", "1"), ("GPUNET_DEVICE", "gpu")]
)
def test_variables_of_the_environment(
    gpunet_command: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    Path("image.png").touch()
    outcome = gpunet_command(*line.split())
    assert_refused(outcome, 2, name)
    assert repr(value) in outcome.err
    assert not Path("runs").exists()
