"""``transnext segment`` from weights in a file to pictures and JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segmentation_models import small_segmentor
from transnext_models.cli.application import app
from transnext_models.segmentation import Inference
from transnext_models.segmenting import Segmentor


@pytest.fixture
def _small(monkeypatch) -> None:
    segmentor = Segmentor(small_segmentor("upernet").float(), Inference(scale=(256, 64)))
    monkeypatch.setattr(Segmentor, "load", lambda *names, **options: segmentor)


@pytest.mark.usefixtures("_small")
def test_segment_writes_pictures_labels_and_json(tmp_path) -> None:
    for folder, side in (("a", 48), ("b", 64)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (side, 40), (200, 100, side)).save(tmp_path / folder / "photo.png")
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    out = tmp_path / "out"

    files = [str(tmp_path / name) for name in ("a/photo.png", "b/photo.png", "broken.jpg")]
    result = CliRunner().invoke(app, ["segment", *files, "--out", str(out), "--json"])

    assert result.exit_code == 1, result.output
    document = json.loads(result.stdout)
    assert [entry["width"] for entry in document["images"]] == [48, 64]
    assert [entry["file"] for entry in document["skipped"]] == [files[2]]
    names = sorted(path.name for path in out.iterdir())
    assert names == ["photo.png", "photo_2.png", "photo_2_labels.png", "photo_labels.png"]
    with Image.open(out / "photo_labels.png") as labels:
        assert labels.mode == "P"
        values = np.asarray(labels)
    entry = document["images"][0]
    assert entry["picture"] == str(out / "photo.png")
    assert len(entry["classes"]) == len(np.unique(values))
    assert sum(found["share"] for found in entry["classes"]) == pytest.approx(1)


@pytest.mark.usefixtures("_small")
def test_segment_prints_shares(tmp_path) -> None:
    Image.new("RGB", (64, 40)).save(tmp_path / "photo.png")
    result = CliRunner().invoke(app, ["segment", str(tmp_path / "photo.png")])
    assert result.exit_code == 0, result.output
    assert "photo.png" in result.stdout
    assert "%" in result.stdout


def test_segment_without_images_is_an_error_of_usage() -> None:
    result = CliRunner().invoke(app, ["segment"])
    assert result.exit_code == 2
