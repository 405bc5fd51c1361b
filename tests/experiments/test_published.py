"""Published results: the file that comes with the package, and files that are none."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from gpunet.errors import DataError
from gpunet.experiments import published
from gpunet.experiments.published import Published, load_published
from gpunet.models import MODELS

MLP = Published(0.9051, 0.0012, 5, (0.8992, 0.9107), 0.9071, "best", 109_386, None, "some CPU", 0.001)


def test_of_the_package() -> None:
    found = load_published()
    assert found.keys() == MODELS.keys()
    for entry in found.values():
        assert entry.interval[0] < entry.mean < entry.interval[1] and entry.seeds >= 3


def test_of_a_file(tmp_path: Path) -> None:
    document = {"mlp": {**asdict(MLP), "of a later version": 1}}
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert load_published(tmp_path / "r.json") == {"mlp": MLP}
    for name in ("tta_std", "refit_mean", "refit_std", "refit_seeds", "refit_tta_mean"):
        del document["mlp"][name]
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert load_published(tmp_path / "r.json")["mlp"].tta_std is None, "of an earlier version"


def test_missing_and_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_published(tmp_path / "none.json") == {}
    monkeypatch.setattr(published, "PUBLISHED", tmp_path / "none.json")
    assert load_published() == {}
    for text in ("{", "[]", '{"mlp": {"mean": 1}}', '{"mlp": 3}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(DataError, match=r"r\.json does not contain published results"):
            load_published(tmp_path / "r.json")
