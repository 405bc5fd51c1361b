"""Checkpoints: one safetensors file each, with everything that is not an array as JSON in its header.

Nothing is pickled. Files are written atomically, so that there is always a complete one, and carry a checksum of all
that they hold, so that a damaged one is recognised.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpunet.errors import CheckpointError
from gpunet.files import PathLike, atomic_write, open_regular, parse_json
from gpunet.nn.parameter import FlatParameters

logger = logging.getLogger("gpunet")

FORMAT = "gpunet-checkpoint-1"


def save_checkpoint(
    path: PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], *, keep: PathLike | None = None
) -> None:
    """Write `tensors` and the JSON-serialisable `metadata` to `path`, atomically.

    Args:
        keep: a path in the same folder that the checkpoint before, if any, is renamed to.

    Raises:
        OutputError: the file cannot be written; an older one at `path` is left intact.

    >>> gn.training.save_checkpoint("weights.safetensors", {"weight": np.ones(3)}, {"epoch": 2})
    >>> gn.training.load_checkpoint("weights.safetensors")
    ({'weight': array([1., 1., 1.])}, {'epoch': 2})
    """
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    text = json.dumps(metadata, sort_keys=True)
    header = {"format": FORMAT, "metadata": text, "sha256": digest(contiguous, text)}
    with atomic_write(path, keep=keep) as temporary:
        temporary.write_bytes(save(contiguous, header))


def load_checkpoint(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata) of the checkpoint at `path`.

    Raises:
        CheckpointError: there is no such file, or it is not a complete and undamaged gpunet checkpoint.

    >>> gn.training.save_checkpoint("weights.safetensors", {"weight": np.ones(3)}, {"epoch": 2})
    >>> tensors, metadata = gn.training.load_checkpoint("weights.safetensors")
    >>> tensors["weight"], metadata["epoch"]
    (array([1., 1., 1.]), 2)
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(path).close()  # safetensors would wait for a pipe
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not a gpunet checkpoint of this version ({FORMAT})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = parse_json(header.get("metadata", ""))
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # the last three: tensors of a type that NumPy does not have
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} cannot be read as a checkpoint: its metadata are not a JSON object")
    if "sha256" not in header:
        logger.warning("%s has no checksum, as written by an older gpunet: damage to it would go unnoticed", path)
    elif header["sha256"] != digest(tensors, header["metadata"]):
        raise CheckpointError(f"{path} is damaged: its content does not match its checksum")
    return tensors, metadata


def digest(tensors: Mapping[str, np.ndarray], text: str = "") -> str:
    """SHA-256 of `text` and of the names, dtypes, shapes and contents of `tensors`, in the order of their names."""
    names = sorted(tensors)
    heads = [[name, tensors[name].dtype.str, list(tensors[name].shape)] for name in names]
    found = hashlib.sha256(json.dumps([text, heads]).encode())
    for name in names:
        found.update(np.ascontiguousarray(tensors[name]).data)
    return found.hexdigest()


def prefixed(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """`tensors` with ``prefix/`` before each name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors whose names start with ``prefix/``, without it; the inverse of :func:`prefixed`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def architecture(flat: FlatParameters) -> dict[str, list[int]]:
    """Names and shapes of all parameters and buffers, which must be the same in a checkpoint and a model."""
    return {name: list(view.shape) for name, view in flat.named(flat.values, flat.state).items()}
