"""Parameters and buffers, and the flat arrays that hold all of a model's."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from gpunet.backend import Array, Backend, backend_of
from gpunet.devices import backend_named
from gpunet.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from gpunet.nn.init import Initializer

_UNSET = cast(Array, None)  # until the model is initialised


class _Value:
    """What has a value. Other libraries take it by their ``from_dlpack``, without a copy: they see it change.

    Pickled with the value as safetensors bytes and the name of its device; gradients are left out.
    """

    value: Array

    def __dlpack__(self, **options: Any) -> Any:
        """As the value's own; ConfigError before the model is initialised."""
        return self._shared().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._shared().__dlpack_device__()

    def _shared(self) -> Any:
        if self.value is None:
            raise ConfigError("the model has no arrays yet: call model.initialize(seed) before its values are taken")
        return self.value

    def __getstate__(self) -> dict[str, Any]:
        from safetensors.numpy import save

        state = {name: item for name, item in vars(self).items() if name not in ("value", "grad")}
        if self.value is not None:
            backend = backend_of(self.value)
            host = np.ascontiguousarray(backend.to_numpy(self.value))
            state["saved"] = (backend.device, save({"value": host}))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        from safetensors.numpy import load

        saved = state.pop("saved", None)
        vars(self).update(state)
        if saved is not None:
            self.value = backend_named(saved[0]).asarray(load(saved[1])["value"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = memo[id(self)] = object.__new__(type(self))  # on the same device, unlike through a pickle
        vars(copied).update({name: copy.deepcopy(item, memo) for name, item in vars(self).items()})
        return copied


@dataclass(eq=False)
class Parameter(_Value):
    """A trainable array. Once the model is initialised, `value` and `grad` are views into its flat buffers.

    >>> weight = gn.nn.Linear(3, 2).weight
    >>> weight.shape, weight.size, weight.decay
    ((3, 2), 6, True)
    """

    shape: tuple[int, ...]
    init: Initializer
    decay: bool = True
    """Whether weight decay applies; true for weights, false for biases and batch norm."""
    value: Array = field(default=_UNSET, repr=False)
    grad: Array = field(default=_UNSET, repr=False)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(eq=False)
class Buffer(_Value):
    """A non-trainable array that training updates: the running statistics of batch norm.

    >>> gn.nn.BatchNorm(2).initialize().running_var.value
    array([1., 1.], dtype=float32)
    """

    shape: tuple[int, ...]
    fill: float
    value: Array = field(default=_UNSET, repr=False)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class FlatParameters:
    """All parameters of a model in one flat array, all gradients in another, all buffers in a third.

    Optimiser, weight decay, averaging, gradient norm and checkpoints are thus one pass over one array each. Parameters
    with weight decay come first: decay applies to ``values[:decay_size]``.

    >>> model = gn.nn.Linear(3, 2, init=gn.nn.Constant(1.0)).initialize()
    >>> model.flat.values, model.flat.decay_size  # six weights, then two biases
    (array([1., 1., 1., 1., 1., 1., 0., 0.], dtype=float32), 6)
    >>> model.flat.values[:] = 5
    >>> model.bias.value
    array([5., 5.], dtype=float32)
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, Parameter]],
        buffers: Sequence[tuple[str, Buffer]],
        *,
        backend: Backend,
        dtype: np.dtype,
    ) -> None:
        self.backend = backend
        self.dtype = dtype
        ordered = [item for item in parameters if item[1].decay] + [item for item in parameters if not item[1].decay]
        self.parameters: dict[str, Parameter] = dict(ordered)
        self.buffers: dict[str, Buffer] = dict(buffers)
        self.decay_size = sum(parameter.size for _, parameter in ordered if parameter.decay)
        self.values = backend.zeros(sum(parameter.size for _, parameter in ordered), dtype)
        self.gradients = backend.zeros(self.values.shape, dtype)
        self.state = backend.zeros(sum(buffer.size for _, buffer in buffers), dtype)
        for parameter, value, grad in zip(
            self.parameters.values(),
            _views(self.values, self.parameters.values()),
            _views(self.gradients, self.parameters.values()),
            strict=True,
        ):
            if parameter.value is not None:  # values from an earlier initialisation are kept
                backend.assign(value, parameter.value)
            parameter.value, parameter.grad = value, grad
        for buffer, value in zip(self.buffers.values(), _views(self.state, self.buffers.values()), strict=True):
            backend.assign(value, buffer.fill if buffer.value is None else buffer.value)
            buffer.value = value
        self._views = [(part, part.value) for part in self._parts().values()]

    @property
    def current(self) -> bool:
        """Whether all parameters and buffers still are views into these arrays.

        They are not when a larger or smaller model that shares them was initialised since: that one has them now.
        """
        return all(part.value is view for part, view in self._views)

    def named(self, values: Array, state: Array) -> dict[str, Array]:
        """Views into `values` and `state` (laid out like this model's) by name, e.g. ``block1.conv.weight``."""
        names = [*self.parameters, *self.buffers]
        views = [*_views(values, self.parameters.values()), *_views(state, self.buffers.values())]
        return dict(zip(names, views, strict=True))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers on the host, by name: of the values that the layers compute with."""
        return {name: self.backend.to_numpy(part.value).copy() for name, part in self._parts().items()}

    def _parts(self) -> dict[str, Parameter | Buffer]:
        parts: dict[str, Parameter | Buffer] = {}
        return parts | self.parameters | self.buffers

    def load_state_dict(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy `tensors` into the parameters and buffers; nothing changes unless all of them fit.

        Raises:
            CheckpointError: as :meth:`check_state_dict`.
        """
        self.check_state_dict(tensors)
        for name, part in self._parts().items():
            self.backend.assign(part.value, tensors[name])

    def check_state_dict(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Check that `tensors` have the names, shapes and dtype of the parameters and buffers, and finite values.

        float32 fits a float64 model, too.

        Raises:
            CheckpointError: a name is missing or unexpected, a shape or a dtype differs, or a value is not finite.
        """
        parts = self._parts()
        missing, unexpected = sorted(parts.keys() - tensors.keys()), sorted(tensors.keys() - parts.keys())
        if missing or unexpected:
            raise CheckpointError(
                "the checkpoint is for another architecture: "
                + "; ".join(
                    f"{what} {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
                    for what, names in (("missing", missing), ("unexpected", unexpected))
                    if names
                )
            )
        for name, part in parts.items():
            tensor = tensors[name]
            if tuple(tensor.shape) != tuple(part.shape):
                raise CheckpointError(
                    f"the checkpoint is for another architecture: {name} has shape {tuple(tensor.shape)}, this model "
                    f"needs {tuple(part.shape)}"
                )
            if tensor.dtype not in ("float32", self.dtype):
                raise CheckpointError(f"{name} in the checkpoint is {tensor.dtype}, this model needs {self.dtype}")
            wrong = np.count_nonzero(~np.isfinite(tensor))
            if wrong:
                raise CheckpointError(
                    f"{wrong} of the {tensor.size} values of {name} in the checkpoint are NaN or infinite: use another "
                    "one, or train again"
                )


def _views(flat: Array, items: Iterable[Parameter | Buffer]) -> list[Array]:
    views, start = [], 0
    for item in items:
        views.append(flat[start : start + item.size].reshape(item.shape))
        start += item.size
    return views
