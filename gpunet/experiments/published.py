"""The published results, which are shipped as package data."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass, fields
from importlib.resources.abc import Traversable
from pathlib import Path

from gpunet.errors import DataError
from gpunet.files import PathLike, parse_json

PUBLISHED: Traversable = importlib.resources.files("gpunet.experiments") / "published.json"


@dataclass(frozen=True)
class Published:
    """The test results of a preset over the seeds 0, 1, ... Accuracies are fractions."""

    mean: float
    """From a single pass over the test images, without test-time augmentation."""
    std: float | None
    """Sample standard deviation over the seeds; None for a single one."""
    seeds: int
    interval: tuple[float, float]
    """95 % Wilson interval of `mean` for the number of test images."""
    tta_mean: float | None
    """With test-time augmentation, probabilities averaged over each image and its mirror image."""
    preset: str
    parameters: int
    commit: str | None
    device: str
    tta_std: float | None = None
    refit_mean: float | None = None
    """After training on the validation images as well, which are then not used for any choice."""
    refit_std: float | None = None
    refit_seeds: int | None = None
    refit_tta_mean: float | None = None


def load_published(path: PathLike | None = None) -> dict[str, Published]:
    """The published results by kind of model; none if there is no file.

    Args:
        path: by default the file shipped with the package.

    Raises:
        DataError: the file is damaged.
    """
    file = PUBLISHED if path is None else Path(path)
    try:
        document = parse_json(file.read_bytes())
        known = [field.name for field in fields(Published)]
        found = {}
        for kind, entry in document.items():
            values = {name: entry[name] for name in known if name in entry}
            found[kind] = Published(**{**values, "interval": tuple(entry["interval"])})
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file} does not contain published results: {type(error).__name__}: {error}") from error
