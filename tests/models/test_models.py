"""The three architectures: sizes, names, features, and a whole network against PyTorch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gpunet.errors import ConfigError, ShapeError
from gpunet.models import CNN, MLP, MODELS, CNNConfig, Hybrid, HybridConfig, MLPConfig, create
from gpunet.nn import CrossEntropyLoss, ForwardContext, summary
from tests.support import assert_close, check_gradient, torch_or_skip


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_is_built_by_its_options_and_has_its_gradients(kind: str) -> None:
    """The gradients of the inputs and of all parameters, in float64 without dropout, by central differences."""
    model = create(MODELS[kind].config(), (28, 28, 1), 10).initialize(seed=3, dtype=np.float64)
    assert model.output_shape((28, 28, 1)) == (10,) and MODELS[kind].label and MODELS[kind].help
    rng = np.random.default_rng(0)
    x, dy = rng.random((2, 28, 28, 1)), rng.standard_normal((2, 10))
    y, backward = model.forward(x, ForwardContext())
    dx = backward(dy)
    assert y.shape == (2, 10)
    check_gradient(model, dx, x, dy, rng)
    values = model.flat.values.copy()

    def of_parameters(new: np.ndarray) -> np.ndarray:
        model.flat.values[...] = new
        return model(x)

    check_gradient(of_parameters, model.flat.gradients.copy(), values, dy, rng)


def test_default_mlp_has_the_parameters_of_784_128_64_10() -> None:
    model = create(MLPConfig(), (28, 28, 1), 10)
    assert model.parameter_count == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10 == 109_386
    assert model.output_shape((28, 28, 1)) == (10,)


def test_default_cnn_is_five_blocks_down_to_one_pixel() -> None:
    model = create(CNNConfig(), (28, 28, 1), 10)
    assert isinstance(model, CNN)
    filters = (1, 32, 64, 128, 256, 512)
    convolutions = sum(9 * a * b for a, b in pairwise(filters))
    norms = 2 * sum(filters[1:])
    assert model.parameter_count == convolutions + norms + 512 * 10 + 10
    maps = [model.until(f"block{i}").output_shape((28, 28, 1)) for i in range(1, 6)]
    assert maps == [(14, 14, 32), (7, 7, 64), (3, 3, 128), (1, 1, 256), (1, 1, 512)]
    assert model.until("features").output_shape((28, 28, 1)) == (512,)


def test_pool_after() -> None:
    model = CNN((8, 8, 3), 4, (4, 6, 8, 12), pooling="global_average", pool_after=(2, 4)).initialize(seed=1)
    x = np.zeros((2, 8, 8, 3), np.float32)
    shapes = [model.extract_features(x, f"block{number}").shape[1:3] for number in (1, 2, 3, 4)]
    assert shapes == [(8, 8), (4, 4), (4, 4), (2, 2)]
    assert model.extract_features(x).shape == (2, 12)
    with pytest.raises(ConfigError, match=r"pool_after \(2, 5\) does not fit pooling 'max' with 4 blocks"):
        CNN((8, 8, 3), 4, (4, 6, 8, 12), pool_after=(2, 5))
    with pytest.raises(ConfigError, match="does not fit pooling 'none'"):
        CNN((8, 8, 3), 4, (4, 6, 8, 12), pooling="none", pool_after=(1,))
    with pytest.raises(ShapeError):
        CNN((2, 2, 3), 4, (4, 6), pool_after=(1, 2))


@pytest.mark.parametrize(
    ("pooling", "features"), [("max", 12), ("average", 12), ("global_average", 12), ("none", 8 * 8 * 12)]
)
def test_poolings(pooling: str, features: int) -> None:
    model = CNN((8, 8, 3), 4, (4, 6, 8, 12), (3, 1, 5, 3), pooling).initialize(seed=1)
    x = np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    assert model(x).shape == (2, 4)
    assert model.extract_features(x).shape == (2, features)
    block1 = (2, 8, 8, 4) if pooling == "none" else (2, 4, 4, 4)
    assert model.extract_features(x, "block1").shape == block1
    assert model.extract_features(x, "block2.conv").shape[-1] == 6


def test_options_reach_the_layers() -> None:
    plain = CNN((8, 8, 1), 3, (4,), batch_norm=False, activation="tanh", head=(7, 5), dropout=0.5, init="xavier")
    names = [f"{name}:{type(layer).__name__}" for name, layer in plain.named_layers() if not list(layer.children())]
    assert names == [
        "block1.conv:Conv2d",
        "block1.activation:Tanh",
        "block1.pool:MaxPool2d",
        "features:Flatten",
        "dropout:Dropout",
        "linear1:Linear",
        "activation1:Tanh",
        "dropout1:Dropout",
        "linear2:Linear",
        "activation2:Tanh",
        "dropout2:Dropout",
        "linear3:Linear",
    ]
    assert plain.layers["block1"].layers["conv"].bias is not None


def test_hybrid_is_the_cnn_followed_by_the_mlp() -> None:
    cnn = CNN((8, 8, 1), 3, (4, 6)).initialize(seed=1)
    x = np.random.default_rng(0).random((5, 8, 8, 1), dtype=np.float32)
    features = cnn.extract_features(x)
    hybrid = Hybrid(cnn, 3, hidden=(7,)).initialize(seed=2)
    np.testing.assert_array_equal(hybrid.extract_features(x), features)
    np.testing.assert_array_equal(hybrid(x), hybrid.classifier(features))
    assert [name for name, _ in hybrid.named_parameters()][:2] == ["cnn.block1.conv.weight", "cnn.block1.norm.gamma"]
    assert "linear1" not in dict(hybrid.extractor.children()), "the CNN's own classifier is left out"
    maps = Hybrid(cnn, 3, feature_layer="block1", hidden=())
    assert maps.classifier.parameter_count == 4 * 4 * 4 * 3 + 3
    created = create(HybridConfig(filters=(4, 6), classifier_hidden=(7,)), (8, 8, 1), 3)
    assert created.parameter_count == hybrid.parameter_count
    assert "classifier.linear2" in summary(created, (8, 8, 1))


def test_cnn_training_gradients_match_pytorch() -> None:
    torch = torch_or_skip()
    t = torch.nn
    model = CNN((9, 9, 2), 5, (3, 4), head=(6,), activation="gelu").initialize(seed=3, dtype=np.float64)
    peer = t.Sequential(
        t.Conv2d(2, 3, 3, padding=1, bias=False), t.BatchNorm2d(3), t.GELU(), t.MaxPool2d(2),
        t.Conv2d(3, 4, 3, padding=1, bias=False), t.BatchNorm2d(4), t.GELU(), t.MaxPool2d(2),
    ).double()  # fmt: skip
    head = t.Sequential(t.Linear(16, 6), t.GELU(), t.Linear(6, 5)).double()
    pairs = {
        "block1.conv.weight": peer[0].weight,
        "block1.norm.gamma": peer[1].weight,
        "block1.norm.beta": peer[1].bias,
        "block2.conv.weight": peer[4].weight,
        "block2.norm.gamma": peer[5].weight,
        "block2.norm.beta": peer[5].bias,
        "linear1.weight": head[0].weight,
        "linear1.bias": head[0].bias,
        "linear2.weight": head[2].weight,
        "linear2.bias": head[2].bias,
    }
    layouts = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    rng = np.random.default_rng(4)
    for name, parameter in model.named_parameters():
        parameter.value[...] = rng.standard_normal(parameter.shape) * 0.5
        converted = parameter.value.transpose(layouts[parameter.value.ndim])
        pairs[name].data = torch.tensor(np.ascontiguousarray(converted))
    x, labels = rng.standard_normal((6, 9, 9, 2)), rng.integers(0, 5, 6)
    logits, backward = model.forward(x, ForwardContext(training=True))
    loss, dlogits = CrossEntropyLoss(label_smoothing=0.1)(logits, labels)
    backward(dlogits)
    maps = peer(torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    tlogits = head(maps.permute(0, 2, 3, 1).reshape(6, 16))
    tloss = t.functional.cross_entropy(tlogits, torch.tensor(labels), label_smoothing=0.1)
    tloss.backward()
    assert_close(logits, tlogits.detach().numpy(), terms=100)
    assert_close(np.asarray(loss), np.asarray(tloss.item()), terms=100)
    for name, parameter in model.named_parameters():
        expected = pairs[name].grad.numpy()
        assert_close(parameter.grad.transpose(layouts[parameter.value.ndim]), expected, terms=1000, scale=1.0)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="sizes must hold at least"):
        MLP((10,))
    with pytest.raises(ConfigError, match="pooling must be one of"):
        CNN(pooling="median")
    with pytest.raises(ConfigError, match="3 kernel_sizes for 5 filters"):
        CNN(kernel_sizes=(3, 3, 3))
    with pytest.raises(ConfigError, match="at least one block"):
        CNN(filters=())
    with pytest.raises(ConfigError, match="there is no layer 'block9'"):
        CNN((8, 8, 1), 3, (4,)).until("block9")
    with pytest.raises(ConfigError, match="init"):
        MLP((4, 2), init="kaiming")
    model = CNN((8, 8, 1), 3, (4,)).initialize()
    with pytest.raises(ShapeError, match="channels"):
        model(np.ones((1, 8, 8, 3), np.float32))
