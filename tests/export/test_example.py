"""The example with onnxruntime alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gpunet as gn
from gpunet.data.scaling import scaling_of
from tests.export.models import SHAPE, made

ROOT = Path(__file__).parent.parent.parent
for package in ("onnx", "onnx_ir", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[peers]'")


def test_a_picture_is_classified_without_gpunet(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (5, *SHAPE), np.uint8)
    names = ["tea", "coffee", "milk", "water"]
    options = {"scaling": scaling_of(pixels, "channel"), "class_names": names}
    model = made("cnn, max after one")
    gn.save(model, tmp_path / "a.safetensors", **options)
    gn.export_onnx(tmp_path / "a.safetensors", tmp_path / "a.onnx", device="cpu", check=False)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    script = ROOT / "scripts" / "predict_with_onnxruntime.py"
    done = subprocess.run(
        [sys.executable, str(script), "a.onnx", "a.png"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = gn.load(tmp_path / "a.safetensors", "cpu").predict_proba(pixels[:1])[0]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [names[index] for index in np.argsort(-expected)[:3]]
    assert abs(float(lines[0][1]) - 100 * expected.max()) < 0.02
