"""PyTorch's form of a model: the equal ``torch.nn.Sequential``, and its state dict both ways, to the same bits.

Names are gpunet's, such as ``block1.conv.weight``, with batch norm's as in PyTorch (weight, bias, running_mean,
running_var, num_batches_tracked). Weights are turned: HWIO to OIHW, (in, out) to (out, in). PyTorch flattens maps in
the order (C, H, W), gpunet in (H, W, C): the inputs of the first linear layer after Flatten are permuted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpunet.errors import CheckpointError
from gpunet.experiments.saved import SavedModel
from gpunet.export.leaves import Leaf, chw_order, leaves
from gpunet.export.packages import pytorch
from gpunet.export.source import source_of
from gpunet.nn import (
    GELU,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Tanh,
)
from gpunet.ops.geometry import Conv2dGeometry, Pool2dGeometry

_NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
_COUNT = "num_batches_tracked"


def to_torch_state_dict(
    model: Layer | SavedModel, *, input_shape: Sequence[int] | None = None, tensors: bool = True
) -> dict[str, Any]:
    """The state dict of the equal PyTorch module, in copies; see :func:`to_torch`.

    Args:
        model: or what :func:`gpunet.load` returns, of which PyTorch gets the network alone, without the scaling of
            pixels.
        input_shape: (H, W, C) of an image, for an MLP that does not know it.
        tensors: whether the values are PyTorch tensors, or NumPy arrays, for which PyTorch is not needed.

    Raises:
        ConfigError: the model has no arrays, or its input shape is not known; PyTorch is not installed.

    >>> model = gn.models.MLP((4, 3, 2)).initialize(seed=0)
    >>> state = gn.to_torch_state_dict(model, tensors=False)
    >>> {name: values.shape for name, values in state.items()}
    {'linear1.weight': (3, 4), 'linear1.bias': (3,), 'linear2.weight': (2, 3), 'linear2.bias': (2,)}
    """
    state: dict[str, np.ndarray] = {}
    for leaf, part, name, order in _parts(_leaves(model, input_shape)):
        values = leaf.host(part)
        assert values is not None
        state[name] = _turned(values, order, leaf.layer)
        if part == "running_var":
            state[f"{leaf.name}.{_COUNT}"] = np.zeros((), np.int64)
    if not tensors:
        return dict(state)
    torch = pytorch()
    return {name: torch.from_numpy(np.array(values, order="C")) for name, values in state.items()}


def from_torch_state_dict(model: Layer, state: Mapping[str, Any], *, input_shape: Sequence[int] | None = None) -> Layer:
    """Copy the values of a PyTorch state dict with the names of :func:`to_torch_state_dict` into `model`; returns it.

    Args:
        state: PyTorch tensors, or arrays. ``num_batches_tracked`` is not used.

    Raises:
        CheckpointError: a name, a shape or a dtype is not the model's, or a value is not finite; nothing is changed.
        ConfigError: the model has no arrays, or its input shape is not known.

    >>> model = gn.models.MLP((4, 3, 2)).initialize(seed=0)
    >>> state = gn.to_torch_state_dict(model, tensors=False)
    >>> state["linear2.bias"] = np.float32([5, 6])
    >>> gn.from_torch_state_dict(model, state).layers["linear2"].bias.value
    array([5., 6.], dtype=float32)
    """
    found = _leaves(model, input_shape)
    left = {name: values for name, values in state.items() if not name.endswith(f".{_COUNT}")}
    own: dict[str, np.ndarray] = {}
    for leaf, part, name, order in _parts(found):
        if name not in left:
            raise CheckpointError(f"the state dict lacks {name}: expected the names of gn.to_torch_state_dict(model)")
        values = left.pop(name)
        values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        shape = getattr(leaf.layer, part).shape
        turned = _turned(np.zeros(shape, np.uint8), None, leaf.layer).shape
        if values.shape != turned:
            raise CheckpointError(f"{name} has shape {values.shape}, this model needs {turned}")
        own[f"{leaf.name}.{part}".lstrip(".")] = _turned_back(values, order, leaf.layer)
    if left:
        raise CheckpointError(f"the state dict has {', '.join(sorted(map(str, left))[:4])}, which this model has not")
    assert model.flat is not None
    model.flat.load_state_dict(own)
    return model


def to_torch(model: Layer | SavedModel, *, input_shape: Sequence[int] | None = None) -> Any:
    """The equal ``torch.nn.Sequential``, with the model's values, in evaluation mode. It takes images (n, C, H, W).

    Raises:
        ConfigError: a layer has no PyTorch form; as :func:`to_torch_state_dict`.

    >>> import torch
    >>> model = gn.models.CNN((8, 8, 1), 2, (4,)).initialize(seed=0)
    >>> gn.to_torch(model)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 2])
    """
    torch = pytorch()
    tree: dict[str, Any] = OrderedDict()
    for leaf in _leaves(model, input_shape):
        branch = tree
        *path, last = leaf.name.split(".") if leaf.name else ["0"]
        for name in path:
            branch = branch.setdefault(name, OrderedDict())
        branch[last] = _module(torch, leaf)

    def built(branch: Any) -> Any:
        if not isinstance(branch, dict):
            return branch
        return torch.nn.Sequential(OrderedDict((name, built(child)) for name, child in branch.items()))

    network = source_of(model, input_shape=input_shape).model
    assert network.flat is not None
    module = built(tree).to(getattr(torch, str(network.flat.dtype)))
    module.load_state_dict(to_torch_state_dict(model, input_shape=input_shape))
    return module.eval()


def _leaves(model: Layer | SavedModel, input_shape: Sequence[int] | None) -> list[Leaf]:
    source = source_of(model, input_shape=input_shape)
    return leaves(source.model, source.input_shape)


def _parts(found: list[Leaf]) -> list[tuple[Leaf, str, str, np.ndarray | None]]:
    """Each parameter and buffer: its layer, gpunet's name of it, PyTorch's dotted name, and the order of its inputs."""
    parts: list[tuple[Leaf, str, str, np.ndarray | None]] = []
    order: np.ndarray | None = None
    for leaf in found:
        layer = leaf.layer
        prefix = f"{leaf.name}." if leaf.name else ""
        if isinstance(layer, Flatten) and len(leaf.input_shape) == 3:
            order = chw_order(leaf.input_shape)
        elif isinstance(layer, (Conv2d, Linear)):
            parts.append((leaf, "weight", f"{prefix}weight", order))
            order = None
            if layer.bias is not None:
                parts.append((leaf, "bias", f"{prefix}bias", None))
        elif isinstance(layer, BatchNorm):
            parts += [(leaf, part, f"{prefix}{name}", order) for part, name in _NORM.items()]
        elif layer.has_parameters() or layer.named_buffers():
            raise leaf.refused("PyTorch")
    return parts


def _turned(values: np.ndarray, order: np.ndarray | None, layer: Layer) -> np.ndarray:
    """`values` in PyTorch's layout."""
    values = values if order is None else values[order]
    if values.ndim == 1:
        return values
    return np.ascontiguousarray(values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T)


def _turned_back(values: np.ndarray, order: np.ndarray | None, layer: Layer) -> np.ndarray:
    """The inverse of :func:`_turned`."""
    values = values if values.ndim == 1 else values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T
    if order is None:
        return np.ascontiguousarray(values)
    found = np.empty_like(values, order="C")
    found[order] = values
    return found


def _module(torch: Any, leaf: Leaf) -> Any:
    layer: Any = leaf.layer
    nn, kind = torch.nn, type(leaf.layer)
    if kind is Conv2d:
        g = Conv2dGeometry.of(
            (1, *leaf.input_shape), layer.weight.shape, stride=layer.stride, padding=layer.padding,
            dilation=layer.dilation, groups=layer.groups,
        )  # fmt: skip
        same = layer.padding == "same" and g.stride == (1, 1)
        return nn.Conv2d(
            g.in_channels, g.out_channels, g.kernel, g.stride, "same" if same else _symmetric(leaf, g.padding),
            g.dilation, g.groups, layer.bias is not None,
        )  # fmt: skip
    if kind in (MaxPool2d, AvgPool2d):
        dilation = getattr(layer, "dilation", 1)
        options: Any = {"stride": layer.stride, "padding": layer.padding, "ceil_mode": layer.ceil_mode}
        p = Pool2dGeometry.of((1, *leaf.input_shape), layer.kernel_size, dilation=dilation, **options)
        common = p.kernel, p.stride, _symmetric(leaf, p.padding)
        if kind is MaxPool2d:
            return nn.MaxPool2d(*common, p.dilation, ceil_mode=layer.ceil_mode)
        return nn.AvgPool2d(*common, ceil_mode=layer.ceil_mode, count_include_pad=layer.count_include_pad)
    if kind is BatchNorm:
        norm = nn.BatchNorm2d if len(leaf.input_shape) == 3 else nn.BatchNorm1d
        return norm(layer.gamma.size, eps=layer.eps, momentum=layer.momentum)
    if kind is GlobalAvgPool2d:
        return nn.Sequential(OrderedDict(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    plain = {
        Linear: lambda: nn.Linear(*layer.weight.shape, bias=layer.bias is not None),
        Flatten: nn.Flatten,
        Dropout: lambda: nn.Dropout(layer.p),
        ReLU: nn.ReLU,
        LeakyReLU: lambda: nn.LeakyReLU(layer.slope),
        Tanh: nn.Tanh,
        GELU: lambda: nn.GELU(layer.approximate),
    }
    if kind not in plain:
        raise leaf.refused("PyTorch")
    return plain[kind]()


def _symmetric(leaf: Leaf, padding: tuple[int, int, int, int]) -> tuple[int, int]:
    top, bottom, left, right = padding
    if (top, left) != (bottom, right):
        raise leaf.refused("PyTorch")
    return top, left
