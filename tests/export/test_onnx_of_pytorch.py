"""ONNX files that PyTorch's exporter writes: read to the same probabilities, or refused by a node's name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpunet as gn
from gpunet.errors import CheckpointError
from gpunet.models import CNN, MLP
from tests.support import torch_or_skip

pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[peers]'")
pytest.importorskip("onnx_ir", reason="onnx-ir is not installed: pip install -e '.[peers]'")
torch = torch_or_skip()

BATCH, SHAPE = 5, (8, 6, 3)


def block(channels: int, filters: int) -> list[Any]:
    nn = torch.nn
    return [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)]


class Viewed(torch.nn.Module):
    """A CNN as many are written: its map becomes a vector by ``view``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(*block(3, 5), *block(5, 6))
        self.classifier = torch.nn.Linear(12, 4)

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).view(x.size(0), -1))


def mlp(*middle: Any) -> Any:
    nn = torch.nn
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 9), nn.GELU(), nn.Dropout(0.3), *middle, nn.Linear(9, 4))


def exported(module: Any, path: Path, *, any_batch: bool) -> Any:
    """The module in evaluation mode, with statistics as if it was trained, as an ONNX file; and images for it."""
    for name, buffer in module.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 2)
    images = torch.randn(BATCH, SHAPE[2], *SHAPE[:2])
    axes = {"x": {0: "n"}} if any_batch else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, on this exporter
        torch.onnx.export(module.eval(), (images,), str(path), dynamo=False, input_names=["x"], dynamic_axes=axes)
    return images


def cnn() -> Any:
    nn = torch.nn
    return nn.Sequential(*block(3, 5), nn.Flatten(), nn.Linear(60, 4), nn.Softmax(1))


@pytest.mark.parametrize("any_batch", [False, True], ids=["fixed batch", "any batch"])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (mlp, MLP),
        (
            lambda: torch.nn.Sequential(*block(3, 5), torch.nn.Flatten(), torch.nn.Linear(60, 4), torch.nn.Softmax(1)),
            CNN,
        ),
        (Viewed, CNN),
    ],
    ids=["MLP", "CNN", "view"],
)
def test_probabilities_are_pytorchs(make: Callable[[], Any], kind: type, any_batch: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = make()
    images = exported(module, tmp_path / "a.onnx", any_batch=any_batch)
    if make is Viewed and any_batch:
        with pytest.raises(CheckpointError, match=r"the node '/Shape' \(Shape\) is none that gpunet's models have"):
            gn.import_onnx(tmp_path / "a.onnx", device="cpu")
        return
    found = gn.import_onnx(tmp_path / "a.onnx", device="cpu")
    assert type(found.model) is kind
    expected = module(images).detach()
    if not isinstance(module, torch.nn.Sequential) or not isinstance(module[-1], torch.nn.Softmax):
        expected = expected.softmax(1)
    actual = found.predict_proba(images.permute(0, 2, 3, 1))
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-6)  # 8 eps sqrt(144) of logits about 1


@pytest.mark.parametrize(
    ("make", "node"),
    [
        (lambda: mlp(torch.nn.Sigmoid()), r"'/4/Sigmoid' \(Sigmoid\) is none that"),
        (lambda: mlp(torch.nn.LayerNorm(9)), r"'/4/LayerNormalization' \(LayerNormalization\) is none that"),
    ],
    ids=["sigmoid", "layer norm"],
)
def test_foreign_nodes_are_named(make: Callable[[], Any], node: str, tmp_path: Path) -> None:
    exported(make(), tmp_path / "a.onnx", any_batch=False)
    with pytest.raises(CheckpointError, match=f"a.onnx: the node {node}"):
        gn.import_onnx(tmp_path / "a.onnx", device="cpu")
