"""``transnext detect`` from weights in a file to pictures, JSON and COCO's results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from transnext_models import create_model
from transnext_models.dense.run_lengths import run_lengths_of
from transnext_models.detecting import Detector


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Of a detector of two classes that finds something everywhere."""
    torch.manual_seed(0)
    model = create_model("maskrcnn_transnext_pico", num_classes=2)
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.weight.mul_(30)
    file = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_file(model.state_dict(), file, metadata={"class_names": '["cat", "dog"]'})
    return file


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, size in (("139.png", (48, 64)), ("285.jpg", (64, 40))):
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


def test_pictures_json_and_coco_s_results(transnext, weights, folder, tmp_path) -> None:
    (folder / "7.jpg").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no image")
    out, coco = tmp_path / "out", tmp_path / "results.json"
    result = transnext(
        *("detect", folder, "--weights", weights, "--threshold", 0, "--max", 3, "--batch-size", 2),
        *("--out", out, "--coco-json", coco, "--json"),
    )
    assert result.code == 1, result.err
    document = json.loads(result.out)
    assert document["model"] == "maskrcnn_transnext_pico.digit_scenes"
    assert document["num_classes"] == 2
    assert [skipped["file"] for skipped in document["skipped"]] == [str(folder / "7.jpg")]
    assert document["left_out"][0]["reason"] == "of suffix .txt"
    first, second = document["images"]
    assert (first["width"], first["height"]) == (64, 48)
    assert (second["width"], second["height"]) == (40, 64)
    expected = list(Detector.load(weights=weights, device="cpu").detect(
        [folder / "139.png", folder / "285.jpg"], batch_size=2, threshold=0, max_objects=3
    ))  # fmt: skip
    for entry, answer in zip((first, second), expected, strict=True):
        assert len(entry["objects"]) == len(answer.objects) == 3
        for item, wanted in zip(entry["objects"], answer.objects, strict=True):
            assert item["label"] == wanted.label == ["cat", "dog"][item["class"]]
            assert item["box"] == list(wanted.box)
            assert item["score"] == wanted.score
            bitmap = run_lengths_of(item["mask"], (entry["height"], entry["width"])).bitmap()
            assert np.array_equal(bitmap, wanted.mask.bitmap())
            assert item["area"] == bitmap.sum()
        with Image.open(entry["picture"]) as picture:
            assert picture.format == "PNG"
    assert sorted(path.name for path in out.iterdir()) == ["139.png", "285.png"]

    results = json.loads(coco.read_text())
    assert [one["image_id"] for one in results] == [139] * 3 + [285] * 3
    assert {one["category_id"] for one in results} <= {1, 2}
    assert results[0]["file_name"] == str(folder / "139.png")
    left, top, width, height = results[0]["bbox"]
    box = first["objects"][0]["box"]
    assert [left, top, left + width, top + height] == pytest.approx(box, abs=2e-3)
    assert results[0]["segmentation"] == first["objects"][0]["mask"]


def test_pycocotools_reads_the_results(transnext, weights, folder, tmp_path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    file, truth = tmp_path / "results.json", tmp_path / "truth.json"
    transnext("detect", folder, "--weights", weights, "--threshold", 0, "--coco-json", file)
    images = [{"id": 139, "width": 64, "height": 48}, {"id": 285, "width": 40, "height": 64}]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    document = {"images": images, "annotations": [], "categories": categories}
    truth.write_text(json.dumps(document))
    loaded = coco.COCO(str(truth)).loadRes(str(file))
    assert len(loaded.getAnnIds(139)) > 0
    annotation = loaded.loadAnns(loaded.getAnnIds(285))[0]
    assert loaded.annToMask(annotation).shape == (64, 40)


def test_text_and_a_second_run_keeps_the_first_s_pictures(
    transnext, weights, folder, tmp_path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("Katze\nHund\n")
    arguments = ("detect", folder / "139.png", "--weights", weights, "--labels", labels)
    for _ in range(2):
        result = transnext(*arguments, "--threshold", 0, "--max", 2, "--out", tmp_path / "out")
        assert result.code == 0, result.err
        assert "Katze" in result.out or "Hund" in result.out
    assert "139_2.png" in result.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["139.png", "139_2.png"]


def test_nothing_found_is_a_result(transnext, weights, folder, tmp_path) -> None:
    coco = tmp_path / "results.json"
    result = transnext(
        "detect", folder, "--weights", weights, "--threshold", 1, "--json", "--coco-json", coco
    )
    assert result.code == 0
    assert [entry["objects"] for entry in json.loads(result.out)["images"]] == [[], []]
    assert json.loads(coco.read_text()) == []


def test_failures_say_what_is_needed(transnext, weights, folder, tmp_path) -> None:
    assert transnext("detect").code == 2
    result = transnext("detect", folder, "--model", "upernet_transnext_tiny", "--json")
    assert result.code == 1
    assert "needs a detector: maskrcnn or dino" in json.loads(result.out)["error"]
    result = transnext("detect", folder, "--weights", folder / "139.png")
    assert result.code == 1
    assert "neither a .pth nor a safetensors file" in result.err
    assert transnext("detect", folder, "--threshold", 2).code == 2
    nowhere = tmp_path / "no" / "results.json"
    result = transnext("detect", folder, "--weights", weights, "--coco-json", nowhere)
    assert result.code == 1
    assert "results.json" in result.err
    assert not nowhere.parent.exists()


def test_nothing_half_written_is_left(transnext, weights, folder, tmp_path, monkeypatch) -> None:
    def interrupted(self, images, **options):
        yield next(iter(detect(self, images, **options)))
        raise KeyboardInterrupt

    detect = Detector.detect
    monkeypatch.setattr(Detector, "detect", interrupted)
    coco = tmp_path / "results.json"
    result = transnext("detect", folder, "--weights", weights, "--json", "--coco-json", coco)
    assert result.code == 130
    document = json.loads(result.out)
    assert document["error"] == "interrupted"
    assert len(document["images"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.usefixtures("offline")
def test_samples_without_network(transnext) -> None:
    result = transnext("detect", "--samples", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["model"].startswith("maskrcnn_transnext_pico")
    assert document["skipped"] == []
    (seven,) = document["images"][0]["objects"]
    assert seven["label"] == "7"
    assert seven["score"] > 0.8
    assert len(document["images"]) > 4


def test_numbers_of_images() -> None:
    from transnext_models.dense_data.coco_results import image_numbers

    assert image_numbers([Path("a/000000000139.jpg"), Path("285.png")]) == [139, 285]
    assert image_numbers([Path("a/1.jpg"), Path("b/1.jpg")]) == [1, 2]  # one of two folders
    assert image_numbers([Path("a/7.jpg"), Path("x.jpg")]) == [1, 2]
    assert image_numbers([Path(f"{'9' * 20}.jpg")]) == [1]
