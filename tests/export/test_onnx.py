"""ONNX files: onnxruntime computes what gpunet does, what is read is what was written, the rest is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpunet as gn
from gpunet.cli.main import main
from gpunet.data.scaling import Scaling, scaling_of
from gpunet.errors import CheckpointError, ConfigError, DataError, GpunetError, OutputError
from gpunet.models import CNN
from gpunet.nn import AvgPool2d, BatchNorm, Conv2d, Flatten, Layer, LeakyReLU, Linear, MaxPool2d, ReLU, Sequential
from tests.export.models import MODELS, SHAPE, made

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[peers]'")
pytest.importorskip("onnx_ir", reason="onnx-ir is not installed: pip install -e '.[peers]'")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e '.[peers]'")

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 8, 6, 3), np.uint8)
SCALING = scaling_of(PIXELS, "pixel")


def run_in_onnxruntime(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("kind", "layout", "fold"), [("uint8", "NHWC", False), ("float32", "NCHW", True), ("scaled", "NCHW", False)]
)
def test_logits_are_gpunets(name: str, kind: str, layout: str, fold: bool, tmp_path: Path) -> None:
    model, path = made(name), tmp_path / "a.onnx"
    names = ["a", "b", "č", "d"]
    options: dict[str, Any] = {"scaling": SCALING, "class_names": names, "input_shape": SHAPE}
    given = gn.export_onnx(model, path, inputs=kind, layout=layout, fold=fold, images=PIXELS, **options)
    scaled = SCALING.apply(PIXELS)
    inputs = {"uint8": PIXELS, "float32": PIXELS.astype(np.float32), "scaled": scaled}[kind]
    inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)) if layout == "NCHW" else inputs
    found = run_in_onnxruntime(path, inputs)
    expected = model(scaled)
    assert np.isfinite(found["logits"]).all()
    np.testing.assert_allclose(found["logits"], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    powers = np.exp(expected.astype(np.float64))
    np.testing.assert_allclose(found["probabilities"], powers / powers.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    assert given.comparison is not None and given.comparison.images == 40
    assert 0 <= given.comparison.largest_share < 1 and given.comparison.accuracy_gpunet is None
    proto = onnx.load(path)
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 18)
    operations = [node.op_type for node in proto.graph.node]
    norms = any(isinstance(layer, BatchNorm) for _, layer in model.named_layers())
    assert ("BatchNormalization" in operations) == (norms and not fold)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["class_names"]) == names and metadata["gpunet_version"] == gn.__version__

    again = gn.import_onnx(path, device="cpu")
    assert again.class_names == tuple(names) and again.input_shape == SHAPE
    if not (fold and norms):
        assert type(again.model) is type(model) and again.model.description.config == model.description.config
        assert (again.model.flat.values == model.flat.values).all() and (
            again.model.flat.state == model.flat.state
        ).all()
    if kind == "scaled":
        np.testing.assert_allclose(again.model(scaled), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        return
    assert (again.scaling.scale == SCALING.scale).all() and (again.scaling.offset == SCALING.offset).all()
    gn.save(again, tmp_path / "a.safetensors")
    proba = gn.load(tmp_path / "a.safetensors", "cpu").predict_proba(PIXELS)
    np.testing.assert_allclose(proba, found["probabilities"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "layers",
    [
        [Conv2d(3, 6, (3, 2), stride=2, padding=((1, 2), (0, 1)), groups=3), LeakyReLU(0.3), BatchNorm(6)],
        [Conv2d(3, 4, 2, dilation=2, bias=False), BatchNorm(4), MaxPool2d(3, stride=2, padding=1, ceil_mode=True)],
        [AvgPool2d(3, stride=2, padding=1, ceil_mode=True), ReLU()],
        [AvgPool2d((3, 2), stride=2, padding=1, ceil_mode=True, count_include_pad=False)],
        [AvgPool2d(3, stride=2, ceil_mode=True)],
        [AvgPool2d(3, stride=1, padding=1)],
        [Conv2d(3, 4, 4, padding="same", stride=3)],
    ],
    ids=["groups", "dilation", "counted", "not counted", "unpadded", "padded", "same"],
)
@pytest.mark.parametrize("fold", [False, True])
def test_layers_with_options(layers: list[Layer], fold: bool, tmp_path: Path) -> None:
    body = Sequential(layers)
    size = int(np.prod(body.output_shape(SHAPE)))
    model = Sequential([body, Flatten(), Linear(size, 3, bias=False), BatchNorm(3)]).initialize(seed=2)
    for _, buffer in model.named_buffers():
        buffer.value[...] = RNG.uniform(0.3, 2, buffer.shape)
    x = RNG.normal(size=(9, *SHAPE)).astype(np.float32)
    gn.export_onnx(model, tmp_path / "a.onnx", input_shape=SHAPE, fold=fold, check=False)
    found, expected = run_in_onnxruntime(tmp_path / "a.onnx", x)["logits"], model(x)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_the_certificate_is_of_the_file(tmp_path: Path) -> None:
    path, labels = tmp_path / "a.onnx", np.arange(40) % 4
    given = gn.export_onnx(made("mlp, relu"), path, scaling=SCALING, input_shape=SHAPE, images=PIXELS, labels=labels)
    written = json.loads((tmp_path / "a.onnx.json").read_text())
    assert written["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == given.sha256
    found = run_in_onnxruntime(path, PIXELS)["logits"]
    own = made("mlp, relu")(SCALING.apply(PIXELS))
    assert written["comparison"]["accuracy_onnxruntime"] == (found.argmax(1) == labels).mean()
    assert written["comparison"]["accuracy_gpunet"] == (own.argmax(1) == labels).mean()
    assert written["comparison"]["argmax_differences"] == 0
    assert 0 <= written["comparison"]["largest_difference"] <= written["comparison"]["bound_there"] < 1e-3


def test_what_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is off by one part in a thousand is more than rounding."""
    from gpunet.export import graph

    model = made("mlp, relu")
    original = graph._weight_and_bias

    def wrong(*arguments: Any) -> Any:
        weight, bias = original(*arguments)
        return weight * np.float32(1.001), bias

    monkeypatch.setattr(graph, "_weight_and_bias", wrong)
    with pytest.raises(
        GpunetError, match=r"onnxruntime computes another network: logit \d of image \d+ .* nothing was"
    ):
        gn.export_onnx(model, tmp_path / "a.onnx", scaling=SCALING, input_shape=SHAPE, images=PIXELS)
    assert list(tmp_path.iterdir()) == []


class Squared(Layer):
    elementwise = True


class OwnReLU(ReLU):
    pass


def test_what_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ([Flatten(), Linear(144, 4), Squared()], {}, ConfigError, r"the layer 2 \(Squared\) has no ONNX form"),
        ([Flatten(), Linear(144, 4), OwnReLU()], {}, ConfigError, r"the layer 2 \(OwnReLU\) has no ONNX form"),
        ([Flatten(), Linear(144, 4)], {"inputs": "uint8"}, ConfigError, "the model has no scaling"),
        ([Flatten(), Linear(144, 4)], {"inputs": "int4"}, ConfigError, "inputs must be one of uint8, float32, scaled"),
        ([Flatten(), Linear(144, 4)], {"layout": "HWCN"}, ConfigError, "layout must be one of NHWC, NCHW"),
        ([Flatten(), Linear(144, 4)], {"class_names": ["a"]}, ConfigError, "class_names must be 4 strings"),
        ([Conv2d(3, 4)], {}, ConfigError, "must be one vector of logits"),
        ([Flatten(), Linear(144, 4)], {"images": PIXELS[:, 1:]}, DataError, r"images must be numbers \(n, 8, 6, 3\)"),
    ]
    for layers, options, error, message in cases:
        model = Sequential(layers).initialize(seed=0)
        with pytest.raises(error, match=message):
            gn.export_onnx(model, path, **{"input_shape": SHAPE, **options})
    spoilt = made("mlp, relu")
    spoilt.flat.values[3] = np.nan
    with pytest.raises(ConfigError, match=r"linear1.weight has values that are NaN"):
        gn.export_onnx(spoilt, path)
    with pytest.raises(OutputError, match="does not exist"):
        gn.export_onnx(made("mlp, relu"), tmp_path / "no" / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    given = gn.export_onnx(made("mlp, relu"), tmp_path / "a.onnx", images=PIXELS.reshape(40, -1).astype(np.float32))
    assert given.comparison is None and given.note.startswith("not compared with gpunet: onnxruntime is not installed")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install '?onnx"):
        gn.export_onnx(made("mlp, relu"), tmp_path / "b.onnx")


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["x", "y", "z", "w"]
    gn.save(made("cnn, max after one"), tmp_path / "a.safetensors", scaling=SCALING, class_names=names)
    np.savez(tmp_path / "d.npz", X=np.tile(PIXELS, (2, 1, 1, 1)), y=np.arange(80) % 4)
    words = [str(tmp_path / "a.safetensors"), str(tmp_path / "a.onnx"), "--data", str(tmp_path / "d.npz")]
    assert main(["export", *words, "--device", "cpu", "-q"]) == 0
    assert "onnxruntime's logits of 16 images differ from gpunet's by at most" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "a.onnx"), str(tmp_path / "b.safetensors"), "--device", "cpu", "-q"]) == 0
    assert "cnn of " in capsys.readouterr().out
    one, two = (gn.load(tmp_path / name, "cpu") for name in ("a.safetensors", "b.safetensors"))
    assert two.class_names == tuple(names) and (one.predict_proba(PIXELS) == two.predict_proba(PIXELS)).all()


def foreign(nodes: list[Any], constants: dict[str, np.ndarray], shape: list[Any], path: Path) -> Path:
    """A file that gpunet did not write: float32 input x, output y."""
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_foreign_graphs(tmp_path: Path) -> None:
    """As PyTorch writes them: channels first, weights (out, in), a flattened map in the order of (C, H, W)."""
    node = onnx.helper.make_node
    weights = {
        "w": RNG.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "b": RNG.normal(size=5).astype(np.float32),
        "v": RNG.normal(size=(4, 60)).astype(np.float32),
        "c": RNG.normal(size=4).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["1"], pads=[1, 1, 1, 1], name="conv"),
        node("Relu", ["1"], ["2"]),
        node("MaxPool", ["2"], ["3"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["3"], ["4"]),
        node("Gemm", ["4", "v", "c"], ["y"], transB=1),
    ]
    path = foreign(nodes, weights, ["n", 3, 8, 6], tmp_path / "a.onnx")
    found = gn.import_onnx(path, device="cpu")
    x = RNG.normal(size=(6, *SHAPE)).astype(np.float32)
    expected = run_in_onnxruntime(path, np.ascontiguousarray(x.transpose(0, 3, 1, 2)))["y"]
    assert isinstance(found.model, CNN) and found.input_shape == SHAPE and found.pixel_scaling is None
    np.testing.assert_allclose(found.model(x), expected, rtol=0, atol=2e-5 * np.abs(expected).max())

    strange = [*nodes[:1], node("Sigmoid", ["1"], ["2"], name="odd"), *nodes[2:]]
    with pytest.raises(CheckpointError, match=r"the node 'odd' \(Sigmoid\) is none that gpunet's models have"):
        gn.import_onnx(foreign(strange, weights, ["n", 3, 8, 6], path))
    strided = [node("Conv", ["x", "w", "b"], ["1"], pads=[1, 1, 1, 1], strides=[2, 2], name="conv"), *nodes[1:2]]
    strided += [node("Flatten", ["2"], ["4"]), nodes[4]]
    with pytest.raises(
        CheckpointError, match=r"none of gpunet's models .* the node 'conv' \(Conv\) is not the model's"
    ):
        gn.import_onnx(foreign(strided, weights, ["n", 3, 8, 6], path))
    with pytest.raises(CheckpointError, match="there is no ONNX file"):
        gn.import_onnx(tmp_path / "no.onnx")
    (tmp_path / "b.onnx").write_bytes(b"\x08\x08text")
    with pytest.raises(CheckpointError, match="no ONNX"):
        gn.import_onnx(tmp_path / "b.onnx")


def test_a_range_other_than_bytes(tmp_path: Path) -> None:
    """What was recorded of the pixels' range goes through the file."""
    from gpunet.experiments.saved import as_saved

    model = made("mlp, relu")
    scaling = Scaling(np.full((1, 1, 3), 1 / 16, np.float32), np.zeros((1, 1, 3), np.float32))
    options: dict[str, Any] = {"scaling": scaling, "class_names": list("abcd"), "input_shape": SHAPE}
    saved = as_saved(model, tmp_path / "a", value_range=(0.0, 16.0), **options)
    with pytest.raises(ConfigError, match=r"trained on pixels from 0 to 16, not on 0..255"):
        gn.export_onnx(saved, tmp_path / "a.onnx", inputs="uint8")
    x = RNG.integers(0, 17, (7, *SHAPE)).astype(np.float32)
    gn.export_onnx(saved, tmp_path / "a.onnx", images=x)
    again = gn.import_onnx(tmp_path / "a.onnx", device="cpu")
    assert again.value_range == (0.0, 16.0)
    assert (again.predict_proba(x) == saved.predict_proba(x)).all()


def test_a_file_of_gpunet_has_its_own_layout_and_range(tmp_path: Path) -> None:
    gn.export_onnx(made("mlp, relu"), tmp_path / "a.onnx", scaling=SCALING, input_shape=SHAPE, check=False)
    for options in ({"layout": "NCHW"}, {"value_range": (0.0, 1.0)}):
        with pytest.raises(ConfigError, match="has its own layout and value_range: leave these out"):
            gn.import_onnx(tmp_path / "a.onnx", device="cpu", **options)
