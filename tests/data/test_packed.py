"""Packed data: what a source holds is what its shards hold, whole or damaged."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpunet.data import load, packed
from gpunet.data.config import DataConfig
from gpunet.data.idx import write_idx
from gpunet.data.pack import pack
from gpunet.data.pack import write as writing
from gpunet.data.packed import INDEX, verify_packed
from gpunet.data.sources import read
from gpunet.errors import DataError, OutputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (23, 4, 5), np.uint8)
LABELS = np.arange(23) % 3


def _npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def _with_parts(folder: Path) -> Path:
    parts = {"x_train": IMAGES[:15], "x_val": IMAGES[15:19], "x_test": IMAGES[19:]}
    labels = {"y_train": LABELS[:15], "y_val": LABELS[15:19], "y_test": LABELS[19:]}
    return _npz(folder, **parts, **labels, class_names=np.array(["a", "b", "c"]))


def _npy(folder: Path) -> Path:
    for name, array in {"X": IMAGES, "y": np.array(["x", "y", "z"])[LABELS]}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def _idx(folder: Path, stem: str = "", names: tuple[str, str] = ("train", "t10k")) -> Path:
    for part, rows in zip(names, (slice(15), slice(15, None)), strict=True):
        write_idx(folder / f"{stem}{part}-images-idx3-ubyte.gz", IMAGES[rows])
        write_idx(folder / f"{stem}{part}-labels-idx1-ubyte", (LABELS[rows] + 1).astype(np.uint8))
    return folder


def _cifar(folder: Path) -> Path:
    for number in range(6):
        pixels = RNG.integers(0, 256, (2, 3072), np.uint8)
        rows = [struct.pack("B", (2 * number + i) % 10) + pixels[i].tobytes() for i in range(2)]
        (folder / ("test_batch.bin" if number == 5 else f"data_batch_{number + 1}.bin")).write_bytes(b"".join(rows))
    return folder


def _pictures(folder: Path) -> Path:
    for number, image in enumerate(IMAGES):
        path = folder / "abc"[LABELS[number]] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).resize((5 + number % 2, 4)).save(path)
    (folder / "b" / "00.png").write_bytes(b"no picture")
    damaged = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(damaged, "PNG")
    (folder / "c" / "00.png").write_bytes(damaged.getvalue()[:-30])  # its header can be read
    return folder


SOURCES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "npz": (lambda folder: _npz(folder, X=IMAGES, y=LABELS), {"test_fraction": 0.3}),
    "npz, parts": (_with_parts, {}),
    "npz, fractions": (lambda folder: _npz(folder, X=IMAGES / 255, y=LABELS), {}),
    "npz, rows": (lambda folder: _npz(folder, X=IMAGES.reshape(23, -1), y=LABELS), {"image_shape": (4, 5)}),
    "npz, channels first": (lambda folder: _npz(folder, X=np.stack([IMAGES % 17] * 3, 1), y=LABELS), {}),
    "idx": (_idx, {}),
    "emnist": (lambda folder: _idx(folder, "emnist-letters-", ("train", "test")), {}),
    "cifar": (_cifar, {}),
    "pictures": (_pictures, {"image_size": (6, 4), "skip_damaged": True}),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_packed_is_what_is_read_in_memory(kind: str, tmp_path: Path) -> None:
    make, options = SOURCES[kind]
    (tmp_path / "source").mkdir()
    source, out = make(tmp_path / "source"), tmp_path / "packed"
    index = pack(source, out, images_per_shard=4, **options)
    whole, found = read(source, DataConfig(**options)), read(out, DataConfig())
    assert found.validation == whole.validation and (index.test_split is None) == (whole.test_indices is None)
    for one, other in ((found.train, whole.train), (found.test, whole.test)):
        np.testing.assert_array_equal(one.in_memory(), other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.labels.dtype == np.int32
        assert (one.class_names, one.value_range) == (other.class_names, other.value_range)
    names = [name for name, _ in packed.files_of(index)]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, INDEX]), "and nothing else"
    assert list(verify_packed(out)) == names


def test_npy_files_and_bounded_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpunet.data.pack.source.BLOCK_BYTES", 3 * 20)
    (tmp_path / "arrays").mkdir()
    pack(_npy(tmp_path / "arrays"), tmp_path / "packed", images_per_shard=5)
    expected = load(_npz(tmp_path, X=IMAGES, y=np.array(["x", "y", "z"])[LABELS]))
    for one, other in zip(load(tmp_path / "packed"), expected, strict=True):
        np.testing.assert_array_equal(one.in_memory(), other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.class_names == ("x", "y", "z")


def _png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def _tar(path: Path, entries: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_webdataset(tmp_path: Path) -> None:
    classes = ["cat", "dog", "owl"]
    for name, rows in (("train-000.tar.gz", range(9)), ("train-001.tar", range(9, 15)), ("test-0.tar", range(15, 20))):
        entries: dict[str, bytes] = {}
        for row in rows:
            label = classes[LABELS[row]]
            entries[f"s/{row:03}.png"] = _png(IMAGES[row])
            if row % 2:
                entries[f"s/{row:03}.cls"] = label.encode()
            else:
                entries[f"s/{row:03}.json"] = json.dumps({"label": label, "more": 1}).encode()
            entries[f"s/{row:03}.txt"] = b"a caption"
        _tar(tmp_path / name, entries)
    pack(tmp_path, tmp_path / "packed")
    train, test = load(tmp_path / "packed")
    np.testing.assert_array_equal(train.in_memory()[..., 0], IMAGES[:15])
    np.testing.assert_array_equal(test.in_memory()[..., 0], IMAGES[15:20])
    assert train.class_names == tuple(classes) and train.labels.tolist() == LABELS[:15].tolist()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a.png": _png(IMAGES[0])}, r"a has .png: expected one picture, and .cls or .json with its class"),
        ({"a.png": _png(IMAGES[0]), "a.cls": b"1", "b.cls": b"2"}, "b has .cls: expected one picture"),
        ({"a.png": _png(IMAGES[0]), "a.json": b"{}"}, "a.json has no class"),
        ({"a.png": _png(IMAGES[0]), "a.json": b"{"}, "a: its class cannot be read"),
        ({"a.png": _png(IMAGES[0])[:-30], "a.cls": b"1"}, r"1 files cannot be read: mend or remove them"),
    ],
)
def test_damaged_webdataset(tmp_path: Path, entries: dict[str, bytes], message: str) -> None:
    _tar(tmp_path / "a.tar", {**{f"{i}.{k}": v for i in (7, 8) for k, v in (("png", _png(IMAGES[i])), ("cls", b"x"))}})
    whole = (tmp_path / "a.tar").read_bytes()
    good = {f"{i}.{suffix}": c for i in range(4) for suffix, c in (("png", _png(IMAGES[i])), ("cls", b"%d" % (i % 2)))}
    _tar(tmp_path / "a.tar", {**good, **entries})
    with pytest.raises(DataError, match=message):
        pack(tmp_path / "a.tar", tmp_path / "packed")
    assert not list(tmp_path.glob("packed/*")), "what was written is removed"
    (tmp_path / "a.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"a.tar is not a readable tar file"):
        pack(tmp_path / "a.tar", tmp_path / "packed")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for part, rows in (("train", range(15)), ("test", range(15, 23))):
        cells = [{"bytes": _png(IMAGES[row]), "path": f"{row}.png"} for row in rows]
        table = pyarrow.table({"image": cells, "label": LABELS[rows]})
        names = {"info": {"features": {"label": {"names": ["u", "v", "w"], "_type": "ClassLabel"}}}}
        parquet.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps(names)}),
            tmp_path / f"{part}-00000-of-00001.parquet",
            row_group_size=4,
        )
    pack(tmp_path, tmp_path / "packed")
    train, test = load(tmp_path / "packed")
    np.testing.assert_array_equal(train.in_memory()[..., 0], IMAGES[:15])
    np.testing.assert_array_equal(test.in_memory()[..., 0], IMAGES[15:])
    assert train.class_names == ("u", "v", "w") and test.labels.tolist() == LABELS[15:].tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": IMAGES / 7.0, "y": LABELS}, r"values from 0 to 36.4286 cannot be packed: packed images have 8 bits"),
        ({"X": IMAGES.astype(int) * 300, "y": LABELS}, r"cannot be packed: packed images have 8 bits"),
        ({"X": IMAGES / 255 * 0.99, "y": LABELS}, r"not multiples of 1/255"),
        ({"X": IMAGES.reshape(23, -1), "y": LABELS}, r"which are no images: .* --image-shape 28 28"),
        ({"X": IMAGES[:20], "y": LABELS}, r"holds 20 images, but 23 labels"),
        ({"X": np.asfortranarray(IMAGES), "y": LABELS}, "stored column by column"),
        ({"a": IMAGES}, "has no images"),
    ],
)
def test_what_cannot_be_packed(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack(_npz(tmp_path, **arrays), tmp_path / "packed")
    assert not (tmp_path / "packed").exists() or not list((tmp_path / "packed").iterdir())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    pack(_npz(tmp_path, X=IMAGES, y=LABELS), tmp_path / "packed", images_per_shard=7)
    return tmp_path / "packed"


def test_a_killed_pack_leaves_nothing_that_loads_and_is_run_again(out: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / INDEX).unlink()  # it is written last
    (out / "train-00002.npy").unlink()
    (out / ".train-00002.0123456789ab.tmp.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"shards but no index.json: packing has not finished; run gpunet data pack"):
        load(out)
    pack(tmp_path / "a.npz", out, images_per_shard=7)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(OutputError, match=r"has packed data already"):
        pack(tmp_path / "a.npz", out)
    with pytest.raises(DataError, match=r"is packed already"):
        pack(out, tmp_path / "again")
    with pytest.raises(OutputError, match=r"is not empty: it holds a.npz"):
        pack(tmp_path / "a.npz", tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
        pack(_npz(tmp_path, X=IMAGES, y=LABELS), tmp_path / "packed")
    assert not list((tmp_path / "packed").iterdir())


def _edited(**changes: Any) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        document = json.loads((out / INDEX).read_text())
        (out / INDEX).write_text(json.dumps({**document, **changes}))

    return edit


def _cut(name: str, by: int) -> Callable[[Path], None]:
    return lambda out: (out / name).write_bytes((out / name).read_bytes()[:-by]) and None


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (lambda out: (out / INDEX).write_text("{"), r"index.json is damaged"),
    "other JSON": (_edited(format="x"), r"is not an index of packed data"),
    "version": (_edited(version=2), r"has version 2, but this gpunet reads version 1"),
    "no parts": (_edited(parts={}), r"index.json is damaged: it lacks 'train'"),
    "shape": (_edited(image_shape=[4, 5]), r"index.json is damaged"),
    "another shape": (_edited(image_shape=[5, 4, 1]), r"train-00000.npy is damaged: it holds uint8 \(7, 4, 5, 1\)"),
    "names": (_edited(class_names=["a", "a"]), r"class_names must be 2 to 10000 different names"),
    "range": (_edited(value_range=[1, 0]), r"value_range must be a lower and a higher number"),
    "fewer names": (_edited(class_names=["a", "b"]), r"train-00000-labels.npy does not fit index.json"),
    "missing": (lambda out: (out / "train-00001.npy").unlink(), r"cannot read .*train-00001.npy: No such file"),
    "no labels": (lambda out: (out / "test-00000-labels.npy").unlink(), r"test-00000-labels.npy: No such file"),
    "truncated": (_cut("train-00002.npy", 3), r"train-00002.npy is truncated"),
    "labels": (_cut("train-00000-labels.npy", 4), r"train-00000-labels.npy is damaged: its SHA-256 is"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, out: Path) -> None:
    damage, message = DAMAGE[kind]
    damage(out)
    for look in (load, verify_packed):
        with pytest.raises(DataError, match=message) as error:
            look(out)
        assert "\n" not in str(error.value)


def test_verify_names_the_shard_with_other_pixels(out: Path) -> None:
    content = bytearray((out / "train-00001.npy").read_bytes())
    content[-1] ^= 1
    (out / "train-00001.npy").write_bytes(content)
    load(out)  # pixels are not looked at
    with pytest.raises(DataError, match=r"train-00001.npy is damaged: its SHA-256 is .*, expected .*; pack the data"):
        verify_packed(out)


def test_a_file_that_shrinks_while_it_is_read(out: Path) -> None:
    train, _ = load(out)
    _cut("train-00001.npy", 30)(out)
    np.testing.assert_array_equal(train.images[:7], train.images[:7])
    with pytest.raises(DataError, match=r"train-00001.npy is truncated: of image 5, there are 10 of 20 bytes"):
        train.images[np.array([3, 12])]
