"""The published results: the file that holds them, and the README's table made from it."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gpunet.errors import DataError
from gpunet.files import write_text_atomic

ROOT = Path(__file__).parents[2]
"""Of a checkout."""
RESULTS = Path("docs") / "results" / "results.json"
START, END = "<!-- results: written by scripts/readme_results.py -->", "<!-- end of results -->"

NAMES = {"mlp": "MLP", "cnn": "CNN", "hybrid": "hybrid"}
FIGURES = {
    "mlp_experiments.png": "Experiments with the MLP",
    "cnn_experiments.png": "Experiments with the CNN",
    "hybrid_experiments.png": "Experiments with the hybrid, its confusion matrix and its metrics of each class",
}


@dataclass(frozen=True)
class Published:
    """What a preset came to on the test images, over the seeds 0, 1, ... Accuracies are fractions."""

    mean: float
    """Of a single pass over the test images."""
    std: float | None
    """Over the seeds, with n - 1; None for a single one."""
    seeds: int
    interval: tuple[float, float]
    """Wilson's 95 % interval of `mean` on the number of test images."""
    tta_mean: float | None
    """With the probabilities of each image and its mirror image averaged."""
    preset: str
    parameters: int
    commit: str | None
    device: str
    tta_std: float | None = None
    refit_mean: float | None = None
    """After training on the validation images as well, which nothing is then chosen by."""
    refit_std: float | None = None
    refit_seeds: int | None = None
    refit_tta_mean: float | None = None


def load_published(path: Path | None = None) -> dict[str, Published]:
    """The published results by kind of model; none if there is no file.

    path: by default the file of the checkout, else that of the installed package.

    Raises:
        DataError: the file is damaged.
    """
    if path is None:
        path = ROOT / RESULTS
        if not path.exists():
            packaged = importlib.resources.files("gpunet") / "results" / RESULTS.name
            path = Path(str(packaged))
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        known = [field.name for field in fields(Published)]
        found = {}
        for kind, entry in document.items():
            values = {name: entry[name] for name in known if name in entry}
            found[kind] = Published(**{**values, "interval": tuple(entry["interval"])})
        return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} does not hold results of gpunet: {type(error).__name__}: {error}") from error


def save_published(path: Path, results: Mapping[str, Published]) -> None:
    """Write `results` to `path`, in the order of the models.

    Raises:
        OutputError: it cannot be written.
    """
    document: dict[str, Any] = {kind: asdict(results[kind]) for kind in NAMES if kind in results}
    write_text_atomic(path, json.dumps(document, indent=2) + "\n")


def results_table(results: Mapping[str, Published], folder: Path | None = None) -> str:
    """The README's lines about `results`, as Markdown: the table and, of the figures in `folder`, those that exist."""
    if not results:
        return "Means over several seeds are not published yet."
    lines = [
        "| model | parameters | test accuracy | seeds | 95 % interval | with mirror images | learnt from all 60,000 | "
        "to reproduce |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, name in NAMES.items():
        if kind not in results:
            continue
        entry = results[kind]
        low, high = entry.interval
        cells = [
            name,
            f"{entry.parameters:,}",
            _with_spread(entry.mean, entry.std),
            str(entry.seeds),
            f"{100 * low:.2f}-{100 * high:.2f}",
            _with_spread(entry.tta_mean, entry.tta_std),
            _refit(entry),
            f"`gpunet reproduce {kind}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Test accuracy in percent: mean and standard deviation over the seeds, single pass, at the epoch that the "
        "validation images chose. The interval is Wilson's for the 10,000 test images. " + _devices(results),
    ]
    for file, text in FIGURES.items():
        if folder is not None and (folder / file).exists():
            lines += ["", f"![{text}]({RESULTS.parent.as_posix()}/{file})"]
    return "\n".join(lines)


def fill_readme(text: str, results: Mapping[str, Published], folder: Path | None = None) -> str:
    """The README `text` with :func:`results_table` between its markers.

    Raises:
        DataError: the markers are not there, once each and in their order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise DataError(f"the README must hold the lines {START} and {END} once each, in this order")
    block = f"{START}\n{results_table(results, folder)}\n{END}"
    return re.sub(re.escape(START) + ".*" + re.escape(END), lambda found: block, text, flags=re.DOTALL)


def _with_spread(mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    return f"{100 * mean:.2f}" + ("" if std is None else f" +- {100 * std:.2f}")


def _refit(entry: Published) -> str:
    seeds = entry.refit_seeds
    of = f" ({seeds} seed{'' if seeds == 1 else 's'})" if seeds and seeds != entry.seeds else ""
    return _with_spread(entry.refit_mean, entry.refit_std) + of


def _devices(results: Mapping[str, Published]) -> str:
    """Where and from which commit; with the models' names where these are not the same of all."""
    made: dict[tuple[str, str | None], list[str]] = {}
    for kind, name in NAMES.items():
        if kind in results:
            made.setdefault((results[kind].device, results[kind].commit), []).append(name)
    places = []
    for (device, commit), names in made.items():
        of = f" ({', '.join(names)})" if len(made) > 1 else ""
        places.append(f"{device}{f', commit {commit[:12]}' if commit else ''}{of}")
    return f"Made on {'; '.join(places)}."
