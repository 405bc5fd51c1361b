"""Initialisers: fans to PyTorch and by hand, moments and bounds to the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from gpunet.errors import ConfigError, ShapeError
from gpunet.nn import init
from gpunet.nn.activation import ACTIVATIONS, LeakyReLU, make_activation
from gpunet.ops import random
from tests.support import torch_or_skip

STREAM = random.PhiloxStream(7, random.INIT, 3)
LINEAR, CONV = (300, 100), (3, 3, 16, 32)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((784, 128), (784, 128)),
        ((3, 3, 16, 32), (144, 288)),
        ((5, 3, 1, 6), (15, 90)),  # depthwise: groups = 6, one input channel each
        ((1, 1, 1, 1), (1, 1)),
    ],
)
def test_fans(shape, expected):
    assert init.fans(shape) == expected
    torch = torch_or_skip()
    axes = (1, 0) if len(shape) == 2 else (3, 2, 0, 1)  # to (out, in) and OIHW
    weight = torch.empty([shape[axis] for axis in axes])
    assert torch.nn.init._calculate_fan_in_and_fan_out(weight) == expected


@pytest.mark.parametrize(
    ("initializer", "shape", "std"),
    [
        (init.He(), LINEAR, math.sqrt(2 / 300)),
        (init.He(mode="fan_out"), LINEAR, math.sqrt(2 / 100)),
        (init.He(), CONV, math.sqrt(2 / 144)),
        (init.He(mode="fan_out"), CONV, math.sqrt(2 / 288)),
        (init.He(gain=1.0), CONV, 1 / 12),
        (init.Xavier(), LINEAR, math.sqrt(2 / 400)),
        (init.Xavier(), CONV, math.sqrt(2 / 432)),
        (init.Random(), LINEAR, 0.01),
        (init.Random(scale=0.5), CONV, 0.5),
    ],
)
def test_normal(initializer, shape, std):
    values = initializer(shape, STREAM)
    n = values.size
    assert values.shape == shape and values.dtype == np.float64
    # five standard errors of the mean and of the variance of n normal numbers
    assert abs(values.mean()) < 5 * std / math.sqrt(n)
    assert abs(values.var() / std**2 - 1) < 5 * math.sqrt(2 / n)
    assert stats.kstest(values.reshape(-1) / std, "norm").pvalue > 1e-4
    np.testing.assert_allclose(values.reshape(-1), std * STREAM.normal(n), rtol=1e-14)


@pytest.mark.parametrize(
    ("initializer", "shape", "bound"),
    [
        (init.He("uniform"), LINEAR, math.sqrt(6 / 300)),
        (init.He("uniform", mode="fan_out"), CONV, math.sqrt(6 / 288)),
        (init.He("uniform", gain=1.0), CONV, math.sqrt(3) / 12),
        (init.Xavier("uniform"), LINEAR, math.sqrt(6 / 400)),
        (init.Xavier("uniform"), CONV, math.sqrt(6 / 432)),
        (init.Random("uniform"), LINEAR, 0.01),
        (init.Random("uniform", 0.2), CONV, 0.2),
    ],
)
def test_uniform(initializer, shape, bound):
    values = initializer(shape, STREAM)
    n = values.size
    assert values.shape == shape and values.dtype == np.float64
    # all values lie within the bound, and with probability 1 - exp(-20) one within 20 / n of each end
    assert -bound <= values.min() <= -bound * (1 - 40 / n)
    assert bound * (1 - 40 / n) <= values.max() <= bound
    # five standard errors of the mean and of the second moment: the deviation of u^2 in [-1, 1] is sqrt(4 / 45)
    assert abs(values.mean()) < 5 * bound / math.sqrt(3 * n)
    assert abs((values**2).mean() / bound**2 - 1 / 3) < 5 * math.sqrt(4 / 45 / n)


def test_he_keeps_the_second_moment_through_relu_layers():
    # What eq. 10 is for. 20 layers of 256 units: the mean square stays near that of the input, where Xavier's halves.
    x = random.PhiloxStream(0, 0).normal(64 * 256).reshape(64, 256)
    moments = {}
    for initializer in (init.He(), init.Xavier()):
        y = x
        for layer in range(20):
            y = np.maximum(y @ initializer((256, 256), random.PhiloxStream(1, random.INIT, layer)), 0)
        moments[type(initializer)] = (y**2).mean() / (x**2).mean()
    # a relu layer of width n multiplies the mean square by a factor of variance about 5 / n: 20 of them, three sigma
    assert abs(math.log2(2 * moments[init.He])) < 3 * math.sqrt(20 * 5 / 256) / math.log(2)
    assert moments[init.Xavier] < 2.0**-17


def second_moment(function):
    return integrate.quad(lambda z: function(z) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12)[0]


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "tanh"])  # whose gain is a custom
def test_gain_keeps_the_second_moment(name):
    """By the layer's own forward; that it computes what it should is held to PyTorch in tests/ops."""
    layer = make_activation(name)
    moment = second_moment(lambda z: layer(np.array([z], np.float64))[0])
    assert abs(init.gain(name) ** 2 * moment - 1) < (5e-4 if name == "gelu_tanh" else 1e-7)


def test_gain_is_pytorch():
    torch = torch_or_skip()
    for name in ("linear", "relu", "tanh"):
        assert init.gain(name) == pytest.approx(torch.nn.init.calculate_gain(name), rel=1e-15)
    assert init.gain(LeakyReLU(0.2)) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.2), rel=1e-15)


def test_every_activation_has_a_gain():
    assert init.gain("linear") == 1 and all(init.gain(name) >= 1 for name in ACTIVATIONS)
    with pytest.raises(ConfigError, match="unknown activation 'swish': expected one of relu, "):
        init.gain("swish")


def test_values_depend_on_the_stream_alone():
    first, second = random.PhiloxStream(0, random.INIT, 0), random.PhiloxStream(0, random.INIT, 1)
    np.testing.assert_array_equal(init.He()(LINEAR, first), init.He()(LINEAR, first))
    assert (init.He()(LINEAR, first) != init.He()(LINEAR, second)).all()


def test_constant():
    values = init.Constant(0.3)((2, 3), STREAM)
    assert values.dtype == np.float64 and values.tolist() == [[0.3] * 3] * 2


def test_random_needs_no_fans():
    assert init.Random()((5,), STREAM).shape == (5,)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("he", init.He("normal")),
        ("he_uniform", init.He("uniform")),
        ("xavier", init.Xavier("normal")),
        ("xavier_uniform", init.Xavier("uniform")),
        ("random", init.Random("normal", 0.01)),
        ("random_uniform", init.Random("uniform", 0.01)),
    ],
)
def test_from_name(name, expected):
    assert init.from_name(name) == expected


def test_names_are_those_of_the_configuration():
    for name in init.INITIALIZERS:
        init.from_name(name)
    with pytest.raises(ConfigError, match=f"init must be one of {', '.join(init.INITIALIZERS)}; got 'orthogonal'"):
        init.from_name("orthogonal")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.He("gaussian"), "distribution must be one of normal, uniform; got 'gaussian'"),
        (lambda: init.Xavier("gaussian"), "distribution must be one of normal, uniform; got 'gaussian'"),
        (lambda: init.Random("gaussian"), "distribution must be one of normal, uniform; got 'gaussian'"),
        (lambda: init.He(mode="fan_avg"), "mode must be one of fan_in, fan_out; got 'fan_avg'"),
        (lambda: init.He(gain=0.0), r"gain must be in \(0, inf\], got 0.0"),
        (lambda: init.Random(scale=-1.0), r"scale must be in \[0, inf\], got -1.0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("shape", [(), (3,), (3, 3, 4), (0, 4)])
@pytest.mark.parametrize("initializer", [init.He(), init.Xavier()])
def test_shapes_without_fans_are_refused(initializer, shape):
    with pytest.raises(
        ShapeError, match=r"fan in and fan out need a weight of shape \(in, out\) or \(KH, KW, C_in/groups, C_out\)"
    ):
        initializer(shape, STREAM)
