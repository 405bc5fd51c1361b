"""The gallery: tables, figures and conclusions of all declared sweeps, and the confusion matrix of the hybrid.

python -m scripts.study.gallery    plots the sweeps that have been run and writes their conclusions, in docs/results/
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpunet.cli.compute import existing_run
from gpunet.errors import CheckpointError, DataError
from gpunet.experiments.inference import load_class_names
from gpunet.experiments.run import PREDICTIONS
from gpunet.files import make_folder, write_text_atomic
from gpunet.models import MODELS
from gpunet.report.metrics import confusion_matrix, per_class_table
from gpunet.report.sweep_figures import plot_gallery, plot_sweep
from gpunet.sweep import Row, Sweep, effects, load_sweep, read_table, write_table
from gpunet.sweep.panels import panels_of
from gpunet.sweep.run import DECLARATION, TABLE
from scripts.study.command import run
from scripts.study.conclusions import reference_label, write_conclusions

logger = logging.getLogger("gpunet")

CONFUSION, PER_CLASS, CONCLUSIONS = "hybrid_confusion.csv", "hybrid_per_class.csv", "conclusions.md"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the gallery, and print the files written.

    Raises: as :func:`make_gallery`, and CheckpointError if the run of the hybrid does not exist.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.study.gallery",
        description="Plot all declared sweeps that have been run, and write their conclusions. Sweeps whose tables are "
        "already in the output folder need not be run again.",
    )
    folders = {
        "declared": ("scripts/experiments", "folder of the sweep declarations"),
        "sweeps": ("sweeps", "folder of the sweeps that were run"),
        "out": ("docs/results", "output folder"),
    }
    for name, (default, what) in folders.items():
        parser.add_argument(f"--{name}", metavar="DIR", type=Path, default=default, help=f"{what} (default: {default})")
    parser.add_argument(
        "--hybrid", metavar="RUN_DIR", help="finished run of a hybrid, for its confusion matrix and metrics"
    )
    args = parser.parse_args(argv)
    hybrid = existing_run(args.hybrid) if args.hybrid is not None else None
    gallery = make_gallery(args.declared, args.sweeps, args.out, hybrid=hybrid)
    for name in gallery.missing:
        logger.warning("the sweep %s has not been run: gpunet sweep %s/%s.toml", name, args.declared, name)
    for path in gallery.written:
        print(path)


@dataclass(frozen=True)
class Gallery:
    """What was found and written."""

    sweeps: list[tuple[Sweep, list[Row]]]
    missing: list[str]
    """Declared sweeps that have no table yet."""
    written: list[Path]


def make_gallery(declared: Path, sweeps: Path, out: Path, *, hybrid: Path | None = None) -> Gallery:
    """Write the tables, figures and conclusions of all sweeps declared in `declared` to `out`.

    A table is read from the sweep's folder in `sweeps`, else from `out` itself, so that the figures can be redrawn
    without running the sweeps. ``mlp_experiments``, ``cnn_experiments`` and ``hybrid_experiments`` (PNG, and CSV with
    mean and spread of each value) show all sweeps of a kind of model; the last also shows the confusion matrix of the
    hybrid in the run folder `hybrid`, or else that in ``hybrid_confusion.csv`` in `out`.

    Raises:
        ConfigError: a declaration is invalid. DataError: a table is invalid, or belongs to another declaration.
        CheckpointError: `hybrid` is not a run folder with test predictions.
        OutputError: a file cannot be written.
    """
    make_folder(out)
    files = sorted(declared.glob("*.toml"))
    if not files:
        raise DataError(f"there is no declared sweep in {declared}: expected TOML files")
    found: list[tuple[Sweep, list[Row]]] = []
    missing: list[str] = []
    written: list[Path] = []
    for file in files:
        sweep = load_sweep(file)
        rows = _rows(sweep, sweeps / sweep.name, out)
        if rows is None:
            missing.append(sweep.name)
            continue
        found.append((sweep, rows))
        write_table(out / f"{sweep.name}.csv", [axis.name for axis in sweep.axes], rows)
        written.append(out / f"{sweep.name}.csv")
        panels = panels_of(sweep, rows)
        if panels:
            plot_sweep(panels, out / f"{sweep.name}.png")
            written.append(out / f"{sweep.name}.png")
    if hybrid is not None:
        written += _save_confusion(hybrid, out)
    for kind in MODELS:
        written += _overview(kind, [pair for pair in found if pair[0].kind == kind], out)
    if found:
        write_text_atomic(out / CONCLUSIONS, write_conclusions(found))
        written.append(out / CONCLUSIONS)
    return Gallery(found, missing, written)


def _rows(sweep: Sweep, folder: Path, out: Path) -> list[Row] | None:
    """The rows from the sweep's own folder, else from the gallery's; None if there are none."""
    source = folder / TABLE
    if source.exists():
        try:
            text = (folder / DECLARATION).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot read {folder / DECLARATION}: {error.strerror or error}") from error
        if tomllib.loads(text) != tomllib.loads(sweep.text):
            raise DataError(
                f"{source} belongs to another version of the sweep {sweep.name}: run gpunet sweep again, which keeps "
                "the trials whose settings are the same"
            )
    else:
        source = out / f"{sweep.name}.csv"
        if not source.exists():
            return None
    axes, rows = read_table(source)
    expected = [axis.name for axis in sweep.axes]
    if axes != expected:
        raise DataError(f"{source} varies {', '.join(axes)}, but the sweep {sweep.name} {', '.join(expected)}")
    return rows


def _overview(kind: str, found: Sequence[tuple[Sweep, list[Row]]], out: Path) -> list[Path]:
    """The figure of all sweeps of `kind`, and its numbers."""
    panels = [panel for sweep, rows in found for panel in panels_of(sweep, rows)]
    confusion = _load_confusion(out) if kind == "hybrid" else None
    if not panels and confusion is None:
        return []
    names, matrix = confusion if confusion is not None else ([], None)
    path = out / f"{kind}_experiments.png"
    plot_gallery(panels, path, f"Experiments with the {MODELS[kind].label}", confusion=matrix, class_names=names)
    lines = [["sweep", "axis", "value", "seeds", "mean", "std", "difference", "failed"]]
    for sweep, rows in found:
        for axis in sweep.axes if sweep.options.search == "grid" else ():
            reference = reference_label(sweep, axis)
            own = effects(rows, axis.name)
            base = next((effect.mean for effect in own if effect.value == reference), None)
            for effect in own:
                difference = None if effect.mean is None or base is None else effect.mean - base
                numbers = (effect.mean, effect.std, difference)
                cells = ["" if number is None else f"{number:.6f}" for number in numbers]
                lines.append([sweep.name, axis.name, effect.value, str(effect.seeds), *cells, str(effect.failed)])
    _write_csv(path.with_suffix(".csv"), lines)
    return [path, path.with_suffix(".csv")]


def _save_confusion(run_dir: Path, out: Path) -> list[Path]:
    """Write the test confusion matrix of the model in `run_dir` and its per-class metrics, as CSV."""
    path = run_dir / PREDICTIONS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels, predictions = (arrays[name].astype(np.int64) for name in ("labels", "predictions"))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{run_dir} is not the folder of a finished run: cannot read {path}: {error}") from error
    names = load_class_names(run_dir)
    matrix = confusion_matrix(labels, predictions, len(names))
    rows = [[name, *map(str, counts)] for name, counts in zip(names, matrix.tolist(), strict=True)]
    _write_csv(out / CONFUSION, [["true \\ predicted", *names], *rows])
    table = per_class_table(matrix)
    measures = [
        [names[row.label], *(f"{value:.6f}" for value in (row.precision, row.recall, row.f1)), str(row.support)]
        for row in table
    ]
    _write_csv(out / PER_CLASS, [["class", "precision", "recall", "f1", "images"], *measures])
    return [out / CONFUSION, out / PER_CLASS]


def _load_confusion(out: Path) -> tuple[list[str], np.ndarray] | None:
    path = out / CONFUSION
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
        matrix = np.array([row[1:] for row in rows], np.int64)
        if header[1:] != [row[0] for row in rows] or matrix.shape != (len(rows), len(rows)):
            raise ValueError("rows and columns have different classes")
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is not a confusion matrix: {error}") from error
    return header[1:], matrix


def _write_csv(path: Path, lines: Sequence[Sequence[str]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    write_text_atomic(path, buffer.getvalue())


if __name__ == "__main__":
    run(main)
