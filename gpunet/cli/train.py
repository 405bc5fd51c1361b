"""``gpunet train``: train a model in a new run folder, or resume a run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpunet.cli.compute import existing_run, prepare, started_ranks
from gpunet.cli.console import accuracy_line, logger, print_json, scores_line
from gpunet.cli.flags import add_flag, add_flags, given_options
from gpunet.cli.parser import Parser, UsageError, choice, common_options, compute_options, decimal, json_option
from gpunet.data.config import FASHION_MNIST
from gpunet.errors import CheckpointError, ConfigError, Interrupted
from gpunet.experiments.config import RunConfig, load, load_toml, merge, section_of
from gpunet.experiments.presets import PRESETS
from gpunet.models import MODELS
from gpunet.tasks import CLASSIFICATION
from gpunet.training.config import TrainingConfig
from gpunet.training.snapshot import LAST

if TYPE_CHECKING:
    from gpunet.experiments.run import RunResult
    from gpunet.parallel.communicator import Communicator

_FRESH = ("preset", "config", "name", "runs_dir")
"""The options that set up a new run, and so cannot be given with ``--resume``."""


_SERVICES = {
    "mlflow": "the MLflow server of MLFLOW_TRACKING_URI",
    "wandb": "Weights & Biases",
    "trackio": "Trackio",
}
"""The tracking services, and what the help says of them."""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of the command and of its three models to its parser."""
    parser.description = (
        "Train a model. The model's own options follow its name: gpunet train cnn --help shows them. "
        "Command-line options override the configuration file, which overrides the preset."
    )
    parser.set_defaults(
        run=run,
        json=False,
        kind=None,
        tensorboard=False,
        track_files=False,
        checkpoint_minutes=5.0,
        **dict.fromkeys(_SERVICES, False),
        **dict.fromkeys((*_FRESH, "resume")),
    )
    parser.explain_unknown = _explain_misplaced
    _add_run_options(parser)
    add_flag(parser, TrainingConfig, "epochs", "the preset's; with --resume, the run's")
    add_kind = parser.with_commands("model")
    for kind in MODELS:
        add_kind(kind, functools.partial(_add_model_arguments, kind), help=MODELS[kind].help)


def _add_model_arguments(kind: str, parser: Parser) -> None:
    parser.usage = f"gpunet train {kind} [options]"
    parser.set_defaults(kind=kind)
    add_flags(parser, kind)
    _add_run_options(parser)


def _add_run_options(parser: Parser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--preset",
        metavar=f"{{{','.join(PRESETS)}}}",
        type=choice("--preset", tuple(PRESETS)),
        help="named settings to start from (default: default)",
    )
    group.add_argument("--config", metavar="FILE", help="TOML configuration file")
    group.add_argument(
        "--resume", metavar="RUN_DIR", help="resume the run in this folder; --epochs may increase its number of epochs"
    )
    group.add_argument("--name", metavar="N", help="prefix of the run folder's name (default: the model)")
    group.add_argument("--runs-dir", metavar="DIR", help="parent folder of new run folders (default: runs)")
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write TensorBoard events to the run folder, on --resume including the earlier epochs "
        "(needs the package tensorboardX)",
    )
    for name, where in _SERVICES.items():
        group.add_argument(
            f"--{name}",
            action="store_true",
            help=f"also send settings, epochs and result to {where} (needs the package {name})",
        )
    group.add_argument("--track-files", action="store_true", help="send them the figures and the checkpoint, too")
    group.add_argument(
        "--checkpoint-minutes",
        metavar="M",
        type=decimal("--checkpoint-minutes", low=0),
        help="save the state within an epoch after this many minutes; 0: only after each epoch (default: 5)",
    )
    json_option(group)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Train the model, and print the result."""
    run_dir: Path | None = None
    trackers = [name for name in _SERVICES if getattr(args, name)]
    if args.track_files and not trackers:
        raise UsageError(
            f"--track-files needs a service to send them to: {', '.join(f'--{name}' for name in _SERVICES)}"
        )
    if args.resume is not None:
        config, run_dir = _resumed(args)
        given = None
    else:
        config, given = _new(args)
    name = _checked_name(args.name if args.name is not None else config.kind)
    ranks = started_ranks(args)
    from gpunet.experiments.quick import new_run_dir
    from gpunet.parallel.communicator import from_first
    from gpunet.parallel.launch import together

    with together(ranks):
        device = prepare(args)
        parent = Path(args.runs_dir if args.runs_dir is not None else "runs")
        folder = run_dir or from_first(ranks, lambda: new_run_dir(parent, name))
        _train(args, config, folder, device, trackers, given, ranks)


def _train(
    args: argparse.Namespace,
    config: RunConfig,
    run_dir: Path,
    device: str | None,
    trackers: list[str],
    given: set[str] | None,
    ranks: Communicator,
) -> None:
    from gpunet.experiments.run import train

    try:
        train(
            config,
            run_dir=run_dir,
            device=device,
            resume=args.resume is not None,
            progress=args.verbosity >= 0,
            tensorboard=args.tensorboard,
            trackers=trackers,
            track_files=args.track_files,
            checkpoint_minutes=args.checkpoint_minutes,
            given=given,
            on_result=functools.partial(_report, data=config.data.data, as_json=args.json),
            communicator=ranks,
        )
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
        hint = f"continue with: gpunet train --resume {shlex.quote(str(run_dir))}"
        raise Interrupted(number, hint if (run_dir / "config.toml").is_file() else "") from None
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk does not report the file
            error.filename = str(run_dir)
        raise
    finally:
        with contextlib.suppress(OSError):
            if ranks.rank == 0:
                run_dir.rmdir()  # succeeds only if nothing was written to it


def _new(args: argparse.Namespace) -> tuple[RunConfig, set[str] | None]:
    """The configuration of a new run, and the options that were given; None if a preset gives them all."""
    toml = load_toml(Path(args.config)) if args.config is not None else {}
    options = given_options(args)
    config = merge(args.kind, args.preset, toml, options, source=args.config or "configuration")
    given = {name for table in toml.values() for name in table} | set(options)
    return config, given if args.preset is None else None


def _resumed(args: argparse.Namespace) -> tuple[RunConfig, Path]:
    """The configuration and the folder of the run to continue."""
    options = given_options(args)
    epochs = options.pop("epochs", None)
    given = [name for name in _FRESH if getattr(args, name) is not None] + list(options)
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{flags} cannot be given with --resume: only --epochs can be changed, to a higher number")
    run_dir = existing_run(args.resume)
    if not (run_dir / "config.toml").is_file():
        if (run_dir / LAST).is_file():
            raise CheckpointError(
                f"{run_dir} is of a Trainer in Python, whose model and data are not known here: make the same Trainer "
                "with that run_dir, and call trainer.resume() before trainer.fit()"
            )
        raise CheckpointError(f"{run_dir} is not a run folder: it has no config.toml")
    config = load(run_dir / "config.toml")
    if args.kind is not None and args.kind != config.kind:
        raise ConfigError(f"the run in {run_dir} is of the model {config.kind}, not {args.kind}")
    if epochs is not None:
        before = config.training.epochs
        if epochs < before:
            raise ConfigError(f"--epochs {epochs} is less than the run's {before}; with --resume it can only grow")
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))
    return config, run_dir


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+=-]{0,99}", name):
        raise UsageError(
            f"--name must be up to 100 letters, digits and ._+=- and start with a letter or digit, got {name!r:.80}"
        )
    return name


def _explain_misplaced(flag: str) -> str:
    name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    kind = next((kind for kind in MODELS if section_of(name, kind)), None)
    return f": a model's options follow its name: gpunet train {kind} {flag}" if kind else ""


def _report(result: RunResult, *, data: str, as_json: bool) -> None:
    """Print the result at once: the figures are drawn after it. And say what to do next."""
    try:
        _print(result, as_json=as_json)
        sys.stdout.flush()
        if not as_json:
            run = shlex.quote(str(result.run_dir))
            pictures = data == FASHION_MNIST or Path(data).is_dir()
            use = f"gpunet predict --run {run} PICTURE" if pictures else f"gpunet evaluate {run} --data FILE"
            logger.info("next: gpunet report %s\n      %s", run, use)
    except OSError as error:
        error.filename = error.filename or "the output"
        raise


def _print(result: RunResult, *, as_json: bool) -> None:
    if not as_json:
        print(f"run folder: {result.run_dir}")
        if result.task == CLASSIFICATION:
            print(accuracy_line("test", result.test_correct, result.test_total))
        if result.test_scores:
            print(scores_line("test", result.test_scores))
        return
    from gpunet import __version__

    if result.task != CLASSIFICATION:
        print_json({**result.document(), "version": __version__})
        return
    from gpunet.report.metrics import wilson_interval

    print_json(
        {
            "model": result.kind,
            "test_accuracy": result.test_accuracy,
            "interval": wilson_interval(result.test_correct, result.test_total),
            "test_loss": result.test_loss,
            f"val_{result.metric}": result.validation_score,
            "epochs": result.epochs,
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "parameters": result.parameters,
            "device": result.device,
            "seed": result.seed,
            "run_dir": str(result.run_dir),
            "version": __version__,
        }
    )
