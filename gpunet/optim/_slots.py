"""Training state: arrays that are saved in checkpoints along with the model."""

from __future__ import annotations

from collections.abc import Mapping

from gpunet.backend import Array, Backend
from gpunet.errors import CheckpointError


def load(owner: str, slots: Mapping[str, Array], tensors: Mapping[str, Array], backend: Backend) -> None:
    """Copy `tensors` into the `slots` of the same names; nothing changes unless all names and shapes match.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs.
    """
    if slots.keys() != tensors.keys():
        raise CheckpointError(
            f"the checkpoint does not fit {owner}: it has {', '.join(sorted(tensors)) or 'nothing'}, "
            f"expected {', '.join(sorted(slots)) or 'nothing'}; resume with the options it was trained with"
        )
    for name, slot in slots.items():
        if tuple(tensors[name].shape) != tuple(slot.shape):
            raise CheckpointError(
                f"the checkpoint does not fit {owner}: {name} has shape {tuple(tensors[name].shape)}, "
                f"this model needs {tuple(slot.shape)}"
            )
    for name, slot in slots.items():
        backend.assign(slot, tensors[name])
