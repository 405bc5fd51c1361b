"""What a model is trained to predict: class indices, or numbers; and the scaling of the numbers of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.backend import backend_of, is_array
from gpunet.dlpack import own_array
from gpunet.errors import DataError


def as_array(values: Any, what: str) -> Any:
    """`values` if they are an array, on any device, else a NumPy array of them; DataError if they make up none.

    Arrays of other libraries, such as PyTorch's, are taken without a copy.
    """
    try:
        values = own_array(values)
        return values if is_array(values) else np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} must be an array, or a list that makes up one: {error}") from error


def _on_host(values: Any, what: str) -> np.ndarray:
    found = as_array(values, what)
    return backend_of(found).to_numpy(found)


def checked_targets(values: Any) -> np.ndarray:
    """Class indices as int32 (n,), or numbers as float64 (n, K); numbers (n,) as (n, 1).

    Whole numbers (n,) are class indices; floats, and whole numbers (n, K) such as indicators of labels, are numbers.

    Raises:
        DataError: they are neither, a class index is negative or beyond int32, or a number is not finite.
    """
    found = _on_host(values, "labels")
    if found.dtype.kind == "f" or (found.ndim == 2 and found.dtype.kind in "biu"):
        return _numbers(found)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError(
            f"labels must be integers of shape (n,), or numbers (n, K), got {found.dtype} of shape {found.shape}: "
            "convert class names to class indices first"
        )
    if found.size and not 0 <= int(found.min()) <= int(found.max()) <= np.iinfo(np.int32).max:
        raise DataError(
            f"labels must be class indices from 0, got values from {found.min()} to {found.max()}; give the targets of "
            "a regression as floats"
        )
    return found.astype(np.int32)


def _numbers(values: np.ndarray) -> np.ndarray:
    if values.ndim not in (1, 2) or 0 in values.shape[1:]:
        raise DataError(f"targets must have shape (n,) or (n, K), got {values.dtype} of shape {values.shape}")
    found = values.astype(np.float64).reshape(len(values), -1)
    wrong = ~np.isfinite(found).all(axis=1)
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} of {len(found)} targets are NaN or infinite, the first in row "
            f"{int(np.argmax(wrong))}: remove these rows, or fill in the values"
        )
    return found


def checked_weights(values: Any, rows: int) -> np.ndarray | None:
    """The weights of `rows` rows, float64 (rows,); None if there are none.

    Raises:
        DataError: they have another shape, or are not finite and at least 0, or all of them are 0.
    """
    if values is None:
        return None
    found = _on_host(values, "sample_weight")
    if found.dtype.kind not in "biuf" or found.shape != (rows,):
        raise DataError(f"sample_weight must be numbers of shape ({rows},), got {found.dtype} of shape {found.shape}")
    found = found.astype(np.float64)
    if not (np.isfinite(found) & (found >= 0)).all() or not found.any():
        raise DataError("sample_weight must be finite numbers of at least 0, not all of them 0")
    return found


def in_dtype(values: np.ndarray, dtype: Any) -> np.ndarray:
    """float64 `values` in another dtype, in which large ones may be infinite: the loss says so."""
    with np.errstate(over="ignore"):
        return values.astype(dtype)


@dataclass(frozen=True, eq=False)
class TargetScaling:
    """Mean and scale of each target of a regression, float64 (K,): a network learns (target - mean) / scale."""

    mean: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        for name, array in self.to_arrays().items():
            if array.dtype != np.float64 or array.ndim != 1 or not np.isfinite(array).all():
                raise DataError(f"the {name} of targets must be finite float64 (K,), got {array.dtype} {array.shape}")
        if self.mean.shape != self.scale.shape or not (self.scale > 0).all():
            raise DataError(f"the scale of targets must be greater than 0, one for each mean, got {self.scale}")

    @classmethod
    def of(cls, targets: np.ndarray) -> TargetScaling:
        """That of training targets, float64 (n, K): mean 0 and deviation 1 each; one that is constant keeps its scale.

        Raises:
            DataError: their deviation is beyond float64.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = targets.mean(axis=0), targets.std(axis=0)
        # what rounding leaves of a constant target is no deviation
        constant = deviation <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, deviation))

    def standardized(self, targets: np.ndarray) -> np.ndarray:
        """`targets` (n, K) as the network learns them."""
        return np.asarray((targets - self.mean) / self.scale)

    def original(self, outputs: np.ndarray) -> np.ndarray:
        """The `outputs` (n, K) of the network in the units of the targets, float64."""
        return np.asarray(outputs.astype(np.float64) * self.scale + self.mean)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As plain arrays, for a checkpoint."""
        return {"mean": self.mean, "scale": self.scale}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TargetScaling | None:
        """The inverse of :meth:`to_arrays`; None if there are none.

        Raises:
            DataError: one is missing or invalid.
        """
        if not arrays:
            return None
        missing = [name for name in ("mean", "scale") if name not in arrays]
        if missing:
            raise DataError(f"the scaling of the targets lacks {' and '.join(missing)}")
        return cls(arrays["mean"], arrays["scale"])
