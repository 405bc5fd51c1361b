"""Checkpoints: one safetensors file each, with everything that is not an array as JSON in its header.

Nothing is pickled. Files are written atomically, so that there is always a complete one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.errors import CheckpointError
from gpunet.files import atomic_write, open_regular, parse_json

FORMAT = "gpunet-checkpoint-1"


def save_checkpoint(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and the JSON-serialisable `metadata` to `path`, atomically.

    Raises:
        OutputError: the file cannot be written; an older one at `path` is left intact.
    """
    from safetensors.numpy import save

    header = {"format": FORMAT, "metadata": json.dumps(metadata, sort_keys=True)}
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(contiguous, header))


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors, metadata) of the checkpoint at `path`.

    Raises:
        CheckpointError: there is no such file, or it is not a complete gpunet checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(path).close()  # safetensors would wait for a pipe
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not a gpunet checkpoint of this version ({FORMAT})")
            metadata = parse_json(header.get("metadata", ""))
            if not isinstance(metadata, dict):
                raise ValueError(f"its metadata are no JSON object but {type(metadata).__name__}")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error


def prefixed(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """`tensors` with ``prefix/`` before each name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors whose names start with ``prefix/``, without it; the inverse of :func:`prefixed`."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
