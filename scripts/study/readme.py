"""The tables of results in README.md and docs/results/README.md, generated from the published ones.

python -m scripts.study.readme    writes them between the two marker comments; the figures stand on the latter alone
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpunet.experiments.published import Published, load_published
from gpunet.files import write_text_atomic
from gpunet.models import MODELS
from scripts.study.checkout import FIGURES, PUBLISHED, ROOT
from scripts.study.command import run
from scripts.study.markers import fill

START, END = "<!-- results: written by python -m scripts.study.readme -->", "<!-- end of results -->"

PAGES = {"README.md": None, f"{FIGURES.as_posix()}/README.md": FIGURES}
"""The pages, and the folder of the figures for the one that shows them."""

CAPTIONS = {
    "mlp_experiments.png": "Experiments with the MLP",
    "cnn_experiments.png": "Experiments with the CNN",
    "hybrid_experiments.png": "Experiments with the hybrid, its confusion matrix and its per-class metrics",
}


def main(root: Path = ROOT) -> None:
    """Fill the pages of the checkout `root`.

    Raises:
        DataError: a page lacks the markers, or the published results are damaged.
        OutputError: it cannot be written.
    """
    results = load_published(root / PUBLISHED)
    for name, figures in PAGES.items():
        page = root / name
        write_text_atomic(page, fill_page(page.read_text(encoding="utf-8"), results, figures and root / figures))


def fill_page(text: str, results: Mapping[str, Published], folder: Path | None = None) -> str:
    """The page `text` with :func:`results_table` between its markers.

    Raises:
        DataError: the text does not contain each marker exactly once, in order.
    """
    return fill(text, START, END, results_table(results, folder))


def results_table(results: Mapping[str, Published], folder: Path | None = None) -> str:
    """The section on `results`, as Markdown: the table, and those of the figures that exist in `folder`."""
    if not results:
        return "Means over several seeds are not published yet."
    lines = [
        "| model | parameters | test accuracy | seeds | 95 % interval | with flip TTA | trained on all 60,000 | "
        "command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, model in MODELS.items():
        if kind not in results:
            continue
        entry = results[kind]
        low, high = entry.interval
        cells = [
            model.label,
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
        "Test accuracy in percent: mean and standard deviation over the seeds, single pass, at the epoch with the best "
        "validation accuracy. The interval is the Wilson interval for the 10,000 test images. Flip TTA averages the "
        "predictions for an image and its mirror image. " + _devices(results),
    ]
    for file, text in CAPTIONS.items():
        if folder is not None and (folder / file).exists():
            lines += ["", f"![{text}]({file})"]
    return "\n".join(lines)


def _with_spread(mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    return f"{100 * mean:.2f}" + ("" if std is None else f" +- {100 * std:.2f}")


def _refit(entry: Published) -> str:
    seeds = entry.refit_seeds
    of = f" ({seeds} seed{'' if seeds == 1 else 's'})" if seeds and seeds != entry.seeds else ""
    return _with_spread(entry.refit_mean, entry.refit_std) + of


def _devices(results: Mapping[str, Published]) -> str:
    """Device and commit; with the models' names if these differ between models."""
    made: dict[tuple[str, str | None], list[str]] = {}
    for kind, model in MODELS.items():
        if kind in results:
            made.setdefault((results[kind].device, results[kind].commit), []).append(model.label)
    places = []
    for (device, commit), names in made.items():
        of = f" ({', '.join(names)})" if len(made) > 1 else ""
        places.append(f"{device}{f', commit {commit[:12]}' if commit else ''}{of}")
    return f"Trained on {'; '.join(places)}."


if __name__ == "__main__":
    run(main)
