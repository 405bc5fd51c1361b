"""What is fuzzed: parsers, valid files for them, and the structure of these files."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpunet.backend import CPU
from gpunet.data import load as load_data
from gpunet.data import read_image
from gpunet.data.files import FILES
from gpunet.data.idx import read_idx, write_idx
from gpunet.data.pack import pack
from gpunet.data.packed import INDEX
from gpunet.data.scaling import Scaling
from gpunet.experiments import config as configs
from gpunet.experiments import records, reproduce
from gpunet.experiments.inference import load_model
from gpunet.experiments.published import load_published
from gpunet.experiments.saved import save_model
from gpunet.export import export_onnx, import_onnx
from gpunet.models import CNN, MLP, MODELS, create
from gpunet.nn import Sequential
from gpunet.sweep.declaration import load_sweep
from gpunet.sweep.search import search_of
from gpunet.sweep.summary import effects
from gpunet.sweep.table import OK, Outcome, Row, read_table, write_table
from gpunet.sweep.trial import read_outcome
from gpunet.training.checkpoint import load_checkpoint, prefixed, save_checkpoint
from gpunet.training.description import scaling_tensors
from gpunet.training.history import entries
from gpunet.training.snapshot import LAST, Snapshot, read_snapshot
from tests.fuzz.mutations import Structure, in_gzip, in_onnx, in_png, in_safetensors, in_zip, text, without_metadata

MIB = 1 << 20
SMALL = 32 * MIB
"""Memory that reading a file of at most 256 KiB may take: some is the interpreter's own."""
PICTURE, LONG = 800 * MIB, 10.0
"""The same, and seconds, for a picture: a header of a few bytes may declare 2**26 pixels."""


@dataclass(frozen=True)
class Target:
    """A parser, and valid files for it."""

    name: str
    file: str
    """The name of the file that it reads."""
    seeds: tuple[bytes, ...]
    read: Callable[[Path], Any]
    """Reads the file, and uses what was read as far as a value of that type promises."""
    structure: Structure | None = None
    memory: int = SMALL
    seconds: float = 1.0
    """Of CPU time that a file of at most 256 KiB may take."""


def targets(folder: Path) -> list[Target]:
    """All targets; `folder` gets the files that stand beside a mutated one."""
    return [*_data(folder), *_pictures(), *_configurations(), *_checkpoints(folder), *_onnx(folder), *_records(folder)]


def _data(folder: Path) -> list[Target]:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 4, 4), np.uint8),
        "y_train": np.arange(6) % 3,
        "x_test": rng.integers(0, 256, (3, 4, 4), np.uint8),
        "y_test": np.arange(3),
    }
    idx = []
    for array in (*arrays.values(), np.arange(6, dtype=">i2").reshape(2, 3), np.arange(4.0)):
        path = folder / "seed"
        write_idx(path, array.astype(np.uint8) if array.dtype == np.int64 else array)
        idx.append(path.read_bytes())
    for beside in (folder / "images", folder / "labels"):
        beside.mkdir()
        for name, content in zip(FILES, idx, strict=False):
            (beside / name).write_bytes(content)
    floats = {**arrays, "x_train": arrays["x_train"] / 255, "class_names": np.array(["a", "b", "č"])}
    archives = (_archive(arrays, zipfile.ZIP_STORED), _archive(floats, zipfile.ZIP_DEFLATED))
    whole = {"X": rng.normal(size=(12, 3)), "y": np.array(["a", "b"] * 6)}
    numbers = [",".join(map(str, row)) for row in rng.integers(0, 99, (12, 4)).tolist()]
    words = [f"{row};{'ab'[i % 2]}".replace(",", ";") for i, row in enumerate(numbers)]
    tables = tuple(
        "\n".join(lines).encode() for lines in (["label,pixel0,pixel1,b", *numbers], words, ["a;b;c;d;label", *words])
    )
    np.savez(folder / "arrays.npz", **arrays)
    pack(folder / "arrays.npz", folder / "packed", images_per_shard=4)
    images, labels, *_ = FILES
    index = folder / "packed" / INDEX
    return [
        Target("IDX", "a", tuple(idx), read_idx),
        Target("IDX, gzipped", "a.gz", tuple(gzip.compress(data, mtime=0) for data in idx), read_idx, in_gzip),
        Target("IDX folder, images", f"images/{images}", (idx[0],), lambda path: load_data(path.parent)),
        Target("IDX folder, labels", f"labels/{labels}", (idx[1],), lambda path: load_data(path.parent)),
        Target("NPZ", "a.npz", archives, load_data, in_zip),
        Target("NPZ, one part", "a.npz", (_archive(whole, zipfile.ZIP_STORED),), load_data, in_zip),
        Target("CSV", "a.csv", tables, load_data, text),
        Target("packed data, index", f"packed/{INDEX}", (index.read_bytes(),), _load_packed, text),
    ]


def _load_packed(path: Path) -> Any:
    return [part.images[:1] for part in load_data(path.parent)]


def _archive(arrays: dict[str, np.ndarray], method: int) -> bytes:
    """An NPZ file, without the time of the day that numpy.savez writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), method)
    return buffer.getvalue()


def _picture(array: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def _pictures() -> list[Target]:
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (13, 11), np.uint8), rng.integers(0, 256, (13, 11, 3), np.uint8)
    clear = np.dstack([colour, grey])
    exif = Image.Exif()
    exif[0x0112] = 6
    pngs = (
        _picture(grey, "PNG"),
        _picture(colour, "PNG", exif=exif),
        _picture(clear, "PNG"),
        _picture(grey.astype(np.uint16) * 257, "PNG"),
        _picture(grey, "PNG", "P", transparency=3),
        _picture(grey, "PNG", "1", transparency=1),
        _picture(clear, "PNG", "LA"),
    )
    wide = b"P5 11 13 1000\n" + (grey.astype(">u2") * 3).tobytes()
    words = b"P2\n# text\n3 2\n300\n0 10 20\n100 200 300\n"
    npy = io.BytesIO()
    np.save(npy, grey / 255)
    files = {
        "JPEG": (_picture(colour, "JPEG", exif=exif), _picture(grey, "JPEG", progressive=True)),
        "PPM": (_picture(grey, "PPM"), _picture(colour, "PPM"), _picture(grey, "PPM", "1"), wide, words),
        "BMP": (_picture(grey, "BMP"), _picture(colour, "BMP")),
        "GIF": (_picture(grey, "GIF"), _picture(colour, "GIF", "P", transparency=1)),
        "TIFF": (_picture(grey, "TIFF"), _picture(colour, "TIFF", compression="tiff_lzw")),
        "WEBP": (_picture(colour, "WEBP"), _picture(clear, "WEBP", lossless=True)),
        "NPY": (npy.getvalue(),),
    }

    def read(path: Path) -> None:
        for shape in ((28, 28, 1), (5, 9, 3)):
            image = read_image(path, shape)
            assert image.shape == shape and image.dtype == np.uint8

    others = [Target(kind, "a", seeds, read, None, PICTURE, LONG) for kind, seeds in files.items()]
    return [Target("PNG", "a.png", pngs, read, in_png, PICTURE, LONG), *others]


_SWEEP = b"""[sweep]
question = "Which?"
search = "random"
points = 3
seeds = [0, 1]
[base]
kind = "mlp"
epochs = 2
[axes]
lr = { low = 1e-3, high = 0.1, log = true }
batch_size = { low = 16, high = 64 }
activation = ["relu", "tanh"]
schedule = [{ name = "a", schedule = "constant" }, { name = "b", schedule = "one_cycle", dropout = 0.5 }]
"""
_GRID = b"""[base]
kind = "cnn"
preset = "quick"
[axes]
filters = [[8], [8, 16]]
flip = [true, false]
"""


def _configurations() -> list[Target]:
    runs = tuple(configs.to_toml(configs.merge(kind)).encode() for kind in MODELS)
    commented = (
        b'# a run\n[model]\nkind = "cnn"\nfilters = [8, 0x10]\n[training]\nlr = 1_0.5e-3\n[data]\ndata = "~/a.npz"\n'
    )

    def run(path: Path) -> None:
        found = configs.load(path)
        assert configs.from_toml(configs.to_toml(found)) == found

    def sweep(path: Path) -> None:
        found = load_sweep(path)
        for point in search_of(found).more([])[:3]:
            for trial in found.trials(point)[:2]:
                assert len(trial.digest) == (12 if trial.config else 0) and trial.epochs >= 0

    return [
        Target("run configuration", "config.toml", (*runs, commented), run, text),
        Target("sweep", "sweep.toml", (_SWEEP, _GRID), sweep, text),
    ]


def _checkpoints(folder: Path) -> list[Target]:
    config = configs.merge("mlp", overrides={"hidden": [3], "data": "/a.npz"})
    model = create(config.model, (2, 2, 1), 3)
    model.initialize(0, device=CPU, dtype="float32")
    assert model.flat is not None
    scaling = Scaling(np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32))
    tensors = {**prefixed("model", model.flat.state_dict()), **scaling_tensors(scaling)}
    facts = {"kind": "mlp", "config": configs.to_toml(config), "input_shape": [2, 2, 1], "class_names": ["a", "b", "c"]}
    path = folder / "seed"
    save_checkpoint(path, tensors, {**facts, "epoch": 3, "validation_accuracy": 0.5})
    models = _in_order(path.read_bytes()), _in_order(path.read_bytes(), checksum=False)
    weights = {**prefixed("model", model.flat.state_dict()), **prefixed("best", model.flat.state_dict())}
    record = {**dict.fromkeys(entries(), 0.5), "epoch": 1, "step": 9}
    Snapshot(
        weights,
        epoch=1,
        epoch_steps=2,
        epoch_seconds=0.5,
        epochs=3,
        stop=False,
        best_epoch=1,
        best_score=0.5,
        schedule={"lr": 0.1},
        callbacks=[["EarlyStopping", {"best": 0.5, "waited": 0}]],
        records=[record],
        identity={"training data": "0" * 64, "lr": 0.1},
        about=facts,
    ).write(folder)
    last = _in_order((folder / LAST).read_bytes(), checksum=False)
    return [
        Target("checkpoint", "a.safetensors", models, load_checkpoint, in_safetensors),
        Target("model", "a.safetensors", models, lambda path: load_model(path, "cpu"), in_safetensors),
        Target("state of a training", LAST, (last,), lambda path: read_snapshot(path.parent), in_safetensors),
    ]


def _onnx(folder: Path) -> list[Target]:
    """Files of gpunet, and one of another library; none where onnx is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnx_ir")):
        return []
    path, shape = folder / "seed.onnx", (4, 4, 3)
    scaling = Scaling(np.full((1, 1, 3), 1 / 255, np.float32), np.zeros((1, 1, 3), np.float32))
    models: list[tuple[Sequential, dict[str, Any]]] = [
        (CNN(shape, 3, (4,), activation="gelu"), {"scaling": scaling}),
        (CNN(shape, 3, (4, 5), pooling="global_average"), {"fold": True, "layout": "NCHW"}),
        (MLP((48, 4, 3), "gelu_tanh"), {"scaling": scaling, "inputs": "float32"}),
    ]
    seeds = []
    for model, options in models:
        model.initialize(seed=0, device=CPU)
        export_onnx(model, path, input_shape=shape, check=False, **options)
        seeds.append(path.read_bytes())

    def read(path: Path, **options: Any) -> None:
        found = import_onnx(path, device="cpu", **options)
        assert found.model.flat is not None and np.isfinite(found.model.flat.values).all()
        assert found.model.output_shape(found.input_shape) == (len(found.class_names),)
        save_model(found, folder / "out.safetensors")
        assert load_model(folder / "out.safetensors", "cpu").input_shape == found.input_shape

    def read_foreign(path: Path) -> None:
        read(path, value_range=(0.0, 1.0), class_names=["a", "b", "c"])

    foreign = tuple(without_metadata(seed) for seed in seeds[:2])
    return [
        Target("ONNX", "a.onnx", tuple(seeds), read, in_onnx),
        Target("ONNX of another library", "a.onnx", foreign, read_foreign, in_onnx),
    ]


def _in_order(data: bytes, *, checksum: bool = True) -> bytes:
    """A safetensors file with its header in order, which the library leaves to chance.

    Without the checksum, a mutation of it comes further.
    """
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + size])
    if not checksum:
        del header["__metadata__"]["sha256"]
    text = json.dumps(header, sort_keys=True).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _records(folder: Path) -> list[Target]:
    result = {
        "seed": 0, "test_correct": 9, "tta_correct": None, "test_total": 10, "validation_accuracy": 0.9,
        "parameters": 7, "test_loss": 0.5, "device": "CPU", "seconds": 3.5,
    }  # fmt: skip
    metrics = b"".join(
        json.dumps({**dict.fromkeys(entries(), 0.5), "epoch": epoch, "step": 9 * epoch}).encode() + b"\n"
        for epoch in (1, 2, 3)
    )
    outcome = Outcome(OK, 0.9, 0.1, 2, "cnn", 3, 70, "", 1.5, 200.0)
    rows = [Row(1, {"lr": "0.1"}, 0, outcome), Row(2, {"lr": "1"}, 0, Outcome("failed", error='a "b", c'))]
    table = folder / "table.csv"
    write_table(table, ["lr"], rows)
    published = json.dumps({
        "mlp": {
            "mean": 0.9, "std": None, "seeds": 1, "interval": [0.8, 0.95], "tta_mean": None, "preset": "best",
            "parameters": 7, "commit": None, "device": "CPU",
        }
    })  # fmt: skip
    arrays = _archive({"labels": np.arange(3), "predictions": np.zeros(3, int)}, zipfile.ZIP_STORED)

    def trial(path: Path) -> None:
        found = read_outcome(path.parent)
        assert found is not None
        row = Row(1, {"lr": "1"}, 0, found)
        write_table(folder / "out.csv", ["lr"], [row])
        assert read_table(folder / "out.csv")[1][0].outcome.ok == found.ok
        effects([row], "lr")

    def reproduced(path: Path) -> None:
        found = reproduce.read_run(path.parent)
        assert found.accuracy >= 0 and found.validation_accuracy >= 0

    def predicted(path: Path) -> None:
        right = reproduce._right(path.parent)
        assert right.dtype == bool and right.ndim == 1

    def summary(path: Path) -> None:
        axes, rows = read_table(path)
        for axis in axes:
            effects(rows, axis)

    document = json.dumps(result, indent=2).encode()
    environment = json.dumps({"split_sha256": "0" * 64, "device": "cpu", "before": [{"device": "cuda:0"}]}).encode()
    return [
        Target("result.json", "result.json", (document,), lambda path: records.read_result(path.parent), text),
        Target(
            "environment.json",
            "environment.json",
            (environment,),
            lambda path: records.read_environment(path.parent),
            text,
        ),
        Target("metrics.jsonl", "metrics.jsonl", (metrics,), records.read_history, text),
        Target("result.json of a reproduction", "result.json", (document,), reproduced, text),
        Target("predictions", "test_predictions.npz", (arrays,), predicted, in_zip),
        Target("trial.json", "trial.json", (json.dumps(asdict(outcome), indent=2).encode(),), trial, text),
        Target("table.csv", "table.csv", (table.read_bytes(),), summary, text),
        Target("published.json", "published.json", (published.encode(),), load_published, text),
    ]
