"""All ops and all their rooms have the same names, parameters and defaults."""

from __future__ import annotations

import importlib
import inspect
import types
from pathlib import Path

import pytest

from gpunet import ops

SIGNATURES = {
    "conv2d": "(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1)",
    "conv2d_backward": (
        "(dy, x, weight, *, stride=1, padding=0, dilation=1, groups=1, needs=('x', 'weight', 'bias'), out=(None, None))"
    ),
    "conv2d_inference": (
        "(x, weight, bias=None, norm=None, *, eps=1e-05, relu=False, max_pool=False, stride=1, padding=0, dilation=1, "
        "groups=1)"
    ),
    "conv2d_batch_norm_max_pool": (
        "(x, weight, gamma, beta, running_mean, running_var, *, padding=0, momentum=0.1, eps=1e-05, relu=False, "
        "gather=None)"
    ),
    "conv2d_batch_norm_max_pool_backward": "(dy, x, weight, gamma, saved, *, padding=0, out=(None, None, None))",
    "max_pool2d": "(x, kernel_size, *, stride=None, padding=0, dilation=1, ceil_mode=False)",
    "max_pool2d_backward": (
        "(dy, argmax, x_shape, kernel_size, *, stride=None, padding=0, dilation=1, ceil_mode=False)"
    ),
    "avg_pool2d": "(x, kernel_size, *, stride=None, padding=0, ceil_mode=False, count_include_pad=True)",
    "avg_pool2d_backward": (
        "(dy, x_shape, kernel_size, *, stride=None, padding=0, ceil_mode=False, count_include_pad=True)"
    ),
    "global_avg_pool2d": "(x)",
    "global_avg_pool2d_backward": "(dy, x_shape)",
    "batch_norm": ("(x, gamma, beta, running_mean, running_var, *, training, momentum=0.1, eps=1e-05, gather=None)"),
    "batch_norm_backward": "(dy, x, gamma, saved, *, out=(None, None))",
    "batch_norm_max_pool": (
        "(x, gamma, beta, running_mean, running_var, *, training, momentum=0.1, eps=1e-05, relu=False, gather=None)"
    ),
    "batch_norm_max_pool_backward": "(dy, x, gamma, saved, *, out=(None, None))",
    "linear": "(x, weight, bias=None, *, relu=False)",
    "linear_backward": "(dy, x, weight, *, y=None, needs=('x', 'weight', 'bias'), out=(None, None))",
    "relu": "(x)",
    "relu_backward": "(dy, x)",
    "leaky_relu": "(x, slope=0.01)",
    "leaky_relu_backward": "(dy, x, slope=0.01)",
    "tanh": "(x)",
    "tanh_backward": "(dy, y)",
    "gelu": "(x, approximate='none')",
    "gelu_backward": "(dy, x, approximate='none')",
    "softmax": "(x)",
    "log_softmax": "(x)",
    "softmax_cross_entropy": (
        "(logits, labels, *, label_smoothing=0.0, weight=None, sample_weight=None, gamma=0.0, reduction='mean')"
    ),
    "mse_loss": "(outputs, targets, *, sample_weight=None, reduction='mean')",
    "huber_loss": "(outputs, targets, *, delta=1.0, sample_weight=None, reduction='mean')",
    "binary_cross_entropy_with_logits": (
        "(outputs, targets, *, pos_weight=None, sample_weight=None, reduction='mean')"
    ),
    "count_correct": "(logits, labels)",
    "dropout": "(x, p, *, seed, step, stream, first_element=0)",
    "dropout_backward": "(dy, mask, p)",
    "sum_shards": "(rows, weights, *, out=None)",
    "record_shard": "(facts, loss, correct, *, rows, labels=None, weight=None)",
    "weigh_shards": "(facts, weights, correct)",
}
PACKAGES = sorted(path.parent.name for path in Path(ops.__path__[0]).glob("*/cuda.py"))


def plain(function: types.FunctionType) -> str:
    """The signature without annotations."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_signature(name: str) -> None:
    assert plain(getattr(ops, name)) == SIGNATURES[name]


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "random"])
def test_reference_has_the_public_signatures(package: str) -> None:
    public = importlib.import_module(f"gpunet.ops.{package}")
    reference = importlib.import_module(f"gpunet.ops.{package}.reference")
    functions = [
        name
        for name, value in vars(public).items()
        if isinstance(value, types.FunctionType) and value.__module__ == public.__name__ and not name.startswith("_")
    ]
    assert functions
    for name in functions:
        assert plain(getattr(reference, name)) == plain(getattr(public, name)), name


@pytest.mark.parametrize("package", PACKAGES)
def test_every_op_has_its_rooms_and_tests(package: str) -> None:
    folder = Path(ops.__path__[0]) / package
    assert (folder / "reference.py").exists()
    assert (folder / "cpu.py").exists() or (folder / "cpu" / "__init__.py").exists()
    assert len((folder / "__init__.py").read_text().splitlines()) <= 180  # examples included
    assert (Path(__file__).parent / f"test_{package}.py").exists()


def test_all_exports_have_docstrings() -> None:
    for name in ops.__all__:
        assert (getattr(ops, name).__doc__ or "").strip(), name
