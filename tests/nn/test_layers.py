"""Every layer against PyTorch's, forward and gradients; parameters, buffers, Sequential and the summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpunet import nn
from gpunet.errors import CheckpointError, ConfigError, DTypeError, ShapeError
from tests.support import assert_close, torch_or_skip

TRAIN = nn.ForwardContext(training=True, seed=1, step=3)


def nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


LAYERS: dict[str, tuple[Callable[[], nn.Layer], Callable[[Any], Any], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), lambda t: t.nn.Linear(7, 5), (4, 7)),
    "linear without bias": (lambda: nn.Linear(7, 5, bias=False), lambda t: t.nn.Linear(7, 5, bias=False), (4, 7)),
    "conv": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        lambda t: t.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        (3, 7, 6, 4),
    ),
    "conv same": (
        lambda: nn.Conv2d(2, 3, (2, 3), dilation=2, bias=False),
        lambda t: t.nn.Conv2d(2, 3, (2, 3), dilation=2, bias=False, padding="same"),
        (2, 5, 6, 2),
    ),
    "batch norm": (lambda: nn.BatchNorm(5), lambda t: t.nn.BatchNorm2d(5), (4, 3, 3, 5)),
    "batch norm, vectors": (lambda: nn.BatchNorm(5, momentum=0.3), lambda t: t.nn.BatchNorm1d(5, momentum=0.3), (6, 5)),
    "relu": (nn.ReLU, lambda t: t.nn.ReLU(), (3, 4)),
    "leaky relu": (lambda: nn.LeakyReLU(0.2), lambda t: t.nn.LeakyReLU(0.2), (3, 4)),
    "tanh": (nn.Tanh, lambda t: t.nn.Tanh(), (3, 4)),
    "gelu": (nn.GELU, lambda t: t.nn.GELU(), (3, 4)),
    "gelu tanh": (lambda: nn.GELU("tanh"), lambda t: t.nn.GELU(approximate="tanh"), (3, 4)),
    "max pool": (
        lambda: nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        lambda t: t.nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        (2, 6, 7, 3),
    ),
    "average pool": (
        lambda: nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=False),
        lambda t: t.nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=False),
        (2, 4, 5, 3),
    ),
    "global average pool": (
        nn.GlobalAvgPool2d,
        lambda t: t.nn.Sequential(t.nn.AdaptiveAvgPool2d(1), t.nn.Flatten()),
        (2, 4, 5, 3),
    ),
}

TO_TORCH = {"weight": lambda w: w.T if w.ndim == 2 else w.transpose(3, 2, 0, 1), "bias": lambda b: b}
NAMES = {"gamma": "weight", "beta": "bias"}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_matches_pytorch(name: str) -> None:
    torch = torch_or_skip()
    make, make_peer, shape = LAYERS[name]
    layer = make().initialize(seed=5, dtype=np.float64)
    peer = make_peer(torch).double()
    rng = np.random.default_rng(2)
    for own, parameter in layer.named_parameters():
        parameter.value[...] = rng.standard_normal(parameter.shape)
        target = getattr(peer, NAMES.get(own, own))
        converted = TO_TORCH.get(own, lambda v: v)(parameter.value)
        target.data = torch.tensor(np.ascontiguousarray(converted))
    x = rng.standard_normal(shape)
    tx = torch.tensor(nchw(x), requires_grad=True)
    y, backward = layer.forward(x, TRAIN)
    ty = peer(tx)
    dy = rng.standard_normal(y.shape)
    dx = backward(dy)
    ty.backward(torch.tensor(nchw(dy)))
    assert y.shape[1:] == layer.output_shape(shape[1:])
    assert_close(y, nhwc(ty.detach().numpy()), terms=64)
    assert_close(dx, nhwc(tx.grad.numpy()), terms=64, scale=8.0)
    for own, parameter in layer.named_parameters():
        expected = getattr(peer, NAMES.get(own, own)).grad.numpy()
        actual = TO_TORCH.get(own, lambda v: v)(parameter.grad)
        assert_close(actual, expected, terms=64, scale=8.0)
    for own, buffer in layer.named_buffers():
        assert_close(buffer.value, getattr(peer, own).numpy(), terms=64)
    peer.eval()
    assert_close(layer(x), nhwc(peer(tx).detach().numpy()), terms=64)


def test_linear_layers_with_relu_match_pytorch() -> None:
    torch = torch_or_skip()
    model = nn.Sequential([nn.Linear(7, 16), nn.ReLU(), nn.ReLU(), nn.Linear(16, 5), nn.ReLU()])
    model.initialize(seed=0, dtype=np.float64)
    peer = torch.nn.Sequential(torch.nn.Linear(7, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5), torch.nn.ReLU())
    pairs = [(model.layers["0"], peer[0]), (model.layers["3"], peer[2])]
    for layer, theirs in pairs:
        theirs.weight.data = torch.tensor(np.ascontiguousarray(layer.weight.value.T))
        theirs.bias.data = torch.tensor(layer.bias.value)
    x, dy = np.random.default_rng(0).standard_normal((8, 7)), np.random.default_rng(1).standard_normal((8, 5))
    tx = torch.tensor(x, requires_grad=True)
    ty = peer(tx)
    ty.backward(torch.tensor(dy))
    y, backward = model.forward(x, TRAIN)
    dx = backward(dy)
    assert 0 < (y == 0).mean() < 1
    assert_close(y, ty.detach().numpy(), terms=16)
    assert_close(dx, tx.grad.numpy(), terms=16, scale=8.0)
    for layer, theirs in pairs:
        assert_close(layer.weight.grad.T, theirs.weight.grad.numpy(), terms=16, scale=8.0)
        assert_close(layer.bias.grad, theirs.bias.grad.numpy(), terms=16, scale=8.0)


def test_a_relu_of_ones_own_is_asked() -> None:
    class Capped(nn.ReLU):
        def forward(self, x: Any, ctx: nn.ForwardContext) -> Any:
            y, backward = super().forward(x, ctx)
            return np.minimum(y, 1), backward

    model = nn.Sequential([nn.Linear(2, 1), Capped()]).initialize(seed=0)
    model.layers["0"].weight.value[...] = 1
    np.testing.assert_array_equal(model(np.array([[3, 4], [0.25, 0.25], [-1, 0]], np.float32)), [[1], [0.5], [0]])


def test_conv_block_matches_pytorch() -> None:
    torch = torch_or_skip()
    block = nn.ConvBlock(3, 4).initialize(seed=0, dtype=np.float64)
    peer = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    ).double()
    weight = block.layers["conv"].weight
    peer[0].weight.data = torch.tensor(np.ascontiguousarray(weight.value.transpose(3, 2, 0, 1)))
    x = np.random.default_rng(0).standard_normal((5, 7, 7, 3))
    tx = torch.tensor(nchw(x), requires_grad=True)
    y, backward = block.forward(x, TRAIN)
    ty = peer(tx)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx = backward(dy)
    ty.backward(torch.tensor(nchw(dy)))
    assert_close(y, nhwc(ty.detach().numpy()), terms=27)
    assert_close(dx, nhwc(tx.grad.numpy()), terms=245)
    assert_close(weight.grad, peer[0].weight.grad.numpy().transpose(2, 3, 1, 0), terms=245, scale=16.0)


def test_dropout_is_a_function_of_seed_step_and_place() -> None:
    model = nn.Sequential([nn.Dropout(0.5), nn.Dropout(0.5)]).initialize()
    first, second = model.layers["0"], model.layers["1"]
    x = np.ones((50, 40))
    y, backward = first.forward(x, TRAIN)
    assert set(np.unique(y)) == {0.0, 2.0}
    # 2,000 draws of probability 1/2: five standard deviations are 112
    assert abs(int((y == 0).sum()) - 1000) < 112
    np.testing.assert_array_equal(backward(np.ones_like(x)), y)
    np.testing.assert_array_equal(first.forward(x, TRAIN)[0], y)
    assert (second.forward(x, TRAIN)[0] != y).any()
    assert (first.forward(x, nn.ForwardContext(training=True, seed=1, step=4))[0] != y).any()
    assert (first.forward(x, nn.ForwardContext(training=True, seed=2, step=3))[0] != y).any()
    assert first(x) is x


def test_all_parameters_live_in_one_buffer_with_the_decayed_ones_first() -> None:
    model = nn.Sequential([nn.Linear(3, 2), nn.BatchNorm(2), nn.Linear(2, 4)]).initialize(seed=1)
    flat = model.flat
    assert flat is not None
    assert list(flat.parameters) == ["0.weight", "2.weight", "0.bias", "1.gamma", "1.beta", "2.bias"]
    assert flat.decay_size == 3 * 2 + 2 * 4 and flat.values.size == model.parameter_count == 14 + 2 + 2 + 2 + 4
    for parameter in flat.parameters.values():
        assert np.shares_memory(parameter.value, flat.values) and np.shares_memory(parameter.grad, flat.gradients)
    flat.values[:] = 7
    assert all((parameter.value == 7).all() for parameter in flat.parameters.values())
    np.testing.assert_array_equal(flat.named(flat.values, flat.state)["1.running_var"], [1, 1])


def test_values_depend_on_the_seed_and_survive_in_a_larger_model() -> None:
    first = nn.Linear(4, 3).initialize(seed=1)
    again = nn.Linear(4, 3).initialize(seed=1)
    other = nn.Linear(4, 3).initialize(seed=2)
    assert first.weight.value.tobytes() == again.weight.value.tobytes()
    assert (first.weight.value != other.weight.value).all()
    before = first.weight.value.copy()
    model = nn.Sequential([("a", first), ("b", nn.Linear(3, 2))]).initialize(seed=9)
    np.testing.assert_array_equal(first.weight.value, before)
    assert np.shares_memory(first.weight.value, model.flat.values)


def test_state_dict_round_trip_and_mismatch() -> None:
    model = nn.Sequential([nn.Linear(3, 2), nn.BatchNorm(2)]).initialize(seed=1)
    saved = model.flat.state_dict()
    model.flat.values[:] = 0
    model.flat.load_state_dict(saved)
    for name, value in model.flat.state_dict().items():
        np.testing.assert_array_equal(value, saved[name])
    kept = model.flat.values.copy()
    missing = {name: value for name, value in saved.items() if name != "0.bias"}
    with pytest.raises(CheckpointError, match=r"another architecture: missing 0\.bias"):
        model.flat.load_state_dict(missing)
    with pytest.raises(CheckpointError, match="unexpected extra"):
        model.flat.load_state_dict({**saved, "extra": np.ones(1)})
    with pytest.raises(CheckpointError, match=r"0\.weight has shape \(2, 2\), this model needs \(3, 2\)"):
        model.flat.load_state_dict({**saved, "0.bias": np.ones(2), "0.weight": np.ones((2, 2))})
    np.testing.assert_array_equal(model.flat.values, kept)


def test_sequential_leaves_out_input_gradients_that_nobody_needs() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)]).initialize(seed=0)
    x = np.random.default_rng(0).standard_normal((2, 2, 2, 1)).astype(np.float32)
    y, backward = model.forward(x, nn.ForwardContext(training=True, needs_input_grad=False))
    assert backward(np.ones_like(y)) is None
    without = model.flat.gradients.copy()
    assert np.abs(without).max() > 0
    _, backward = model.forward(x, nn.ForwardContext(training=True))
    assert backward(np.ones_like(y)).shape == x.shape
    np.testing.assert_array_equal(model.flat.gradients, without)


def test_summary_counts_by_hand() -> None:
    model = nn.Sequential([("conv", nn.Conv2d(1, 2, 3)), ("flatten", nn.Flatten()), ("out", nn.Linear(32, 5))])
    text = nn.summary(model, (4, 4, 1))
    # convolution: 2 * 4*4 positions * 9 taps * 2 channels = 576 FLOPs, 9*2 + 2 parameters; linear: 2*32*5, 32*5 + 5
    assert "4 x 4 x 2" in text and "576" in text and "320" in text and "165" in text
    assert text.splitlines()[-1].split() == ["total", "185", "896"]


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="in_features must be at least 1"):
        nn.Linear(-3, 4)
    with pytest.raises(ConfigError, match="groups=2 must divide"):
        nn.Conv2d(3, 4, groups=2)
    with pytest.raises(ConfigError, match="kernel_size"):
        nn.Conv2d(3, 4, 0)
    with pytest.raises(ConfigError, match="p must be in"):
        nn.Dropout(1.0)
    with pytest.raises(ConfigError, match="unknown activation 'swish'"):
        nn.make_activation("swish")
    with pytest.raises(ConfigError, match="pool must be max, average or None"):
        nn.ConvBlock(1, 2, pool="min")
    with pytest.raises(ConfigError, match="two layers are called 'a'"):
        nn.Sequential([("a", nn.ReLU()), ("a", nn.ReLU())])
    with pytest.raises(ConfigError, match="approximate must be none or tanh"):
        nn.GELU("erf")
    with pytest.raises(DTypeError, match="float32 or float64"):
        nn.Linear(2, 2).initialize(dtype=np.float16)
    with pytest.raises(ShapeError, match="put Flatten or GlobalAvgPool2d before it"):
        nn.Linear(4, 2).output_shape((2, 2, 1))
    with pytest.raises(ShapeError, match="expects 3 features"):
        nn.BatchNorm(3).output_shape((2, 2, 1))
    with pytest.raises(ShapeError, match="larger than the padded map"):
        nn.MaxPool2d(3).output_shape((2, 2, 1))


class _Branches(nn.Layer):
    """A layer of one's own, without a method that names its children."""

    def __init__(self) -> None:
        self.first = nn.Linear(4, 3)
        self.sizes = (4, 3)
        self.rest = [nn.Linear(3, 3), (nn.BatchNorm(3),)]
        self.by_name = {"last": nn.Linear(3, 2)}

    def forward(self, x: Any, ctx: nn.ForwardContext) -> Any:
        layers = [layer for _, layer in self.children()]
        backwards = []
        for layer in layers:
            x, backward = layer.forward(x, ctx.for_inner_layer())
            backwards.append(backward)

        def backward_of_all(dy: Any) -> Any:
            for backward in reversed(backwards):
                dy = backward(dy)
            return dy

        return x, backward_of_all


def test_attributes_that_are_layers_are_children() -> None:
    """In order of assignment, as in PyTorch's Module; a method of one's own wins."""
    layer = _Branches().initialize(seed=3)
    assert [name for name, _ in layer.children()] == ["first", "rest.0", "rest.1.0", "by_name.last"]
    assert [name for name, _ in layer.named_parameters()] == [
        "first.weight", "first.bias", "rest.0.weight", "rest.0.bias", "rest.1.0.gamma", "rest.1.0.beta",
        "by_name.last.weight", "by_name.last.bias",
    ]  # fmt: skip
    assert layer.flat is not None and layer.flat.values.size == 15 + 12 + 6 + 8
    assert [name for name, _ in layer.named_buffers()] == ["rest.1.0.running_mean", "rest.1.0.running_var"]
    same = nn.Sequential([nn.Linear(4, 3), nn.Linear(3, 3), nn.BatchNorm(3), nn.Linear(3, 2)]).initialize(seed=3)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_array_equal(layer(x), same(x))

    class Chosen(_Branches):
        def children(self) -> Any:
            yield "only", self.first

    assert [name for name, _ in Chosen().named_parameters()] == ["only.weight", "only.bias"]
