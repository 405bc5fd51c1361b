"""A run in one call: ``gn.train``."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from gpunet.data.config import FASHION_MNIST
from gpunet.data.tables import is_table_folder, is_table_name
from gpunet.errors import ConfigError
from gpunet.experiments.config import merge
from gpunet.experiments.result import RunResult
from gpunet.experiments.run import train as train_run
from gpunet.files import PathLike
from gpunet.training.progress import is_watched


def train(
    data: PathLike = FASHION_MNIST,
    kind: str | None = None,
    *,
    run_dir: PathLike | None = None,
    preset: str | None = None,
    device: str | None = None,
    progress: bool | None = None,
    **options: Any,
) -> RunResult:
    """Train a model on a data set and test it, as ``gpunet train KIND --data DATA``: ``gn.train``.

    Args:
        data: ``fashion-mnist``, a folder of pictures, a table, an NPZ file or one of the others that
            :func:`gpunet.data.load` reads.
        kind: of the model, ``mlp``, ``cnn`` or ``hybrid``; by default an MLP for a table, else a CNN.
        run_dir: the folder of the run, which is resumed by ``gpunet train --resume``; by default a new one in ``runs``.
        preset: of settings; without one, those that the data are too few or too many for are fitted to them.
        progress: whether to show it on the standard error; by default, if that is a terminal or a notebook.
        options: those of ``gpunet train``, such as ``epochs=5`` or ``image_size=32``.

    >>> result = gn.train("photos", image_size=64)  # doctest: +SKIP
    >>> result.test_accuracy, result.load().predict("cat.jpg")  # doctest: +SKIP

    Raises:
        ConfigError: an option is unknown or does not fit; ``run_dir`` holds a run already.
        DataError: the data cannot be read. GpunetError: see :func:`gpunet.experiments.run.fit`.
    """
    source = Path(data).expanduser()
    if kind is None:
        kind = "mlp" if is_table_folder(source) or (source.is_file() and is_table_name(source)) else "cnn"
    if str(data) != FASHION_MNIST:
        options["data"] = str(source.absolute())
    for name in ("image_size", "image_shape"):
        if isinstance(options.get(name), int):
            options[name] = [options[name]]
    config = merge(kind, preset, overrides=options)
    if run_dir is not None and (Path(run_dir) / "config.toml").exists():
        raise ConfigError(f"{run_dir} holds a run: give another run_dir, or go on with gpunet train --resume {run_dir}")
    folder = new_run_dir(Path("runs"), config.kind) if run_dir is None else Path(run_dir)
    try:
        return train_run(
            config,
            run_dir=folder,
            device=device,
            progress=is_watched() if progress is None else progress,
            given=set(options) if preset is None else None,
        )
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # succeeds only if nothing was written to it


def new_run_dir(runs_dir: Path, name: str) -> Path:
    """Create the folder ``runs_dir/name-time``, with a number appended if several runs start in the same second."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        run_dir = runs_dir / (stem if number == 1 else f"{stem}-{number}")
        try:
            run_dir.mkdir()
            return run_dir
        except FileExistsError:
            number += 1
