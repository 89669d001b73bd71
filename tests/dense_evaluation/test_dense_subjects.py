"""Models through the command: as `Detector` and `Segmentor` answer, and as published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from dense_evaluation.answers import CLASSES, write_set
from dense_evaluation.conftest import Command
from detection_models import small_dino
from segmentation_models import small_segmentor
from transnext_models import create_model
from transnext_models.dense.classes import category_ids, class_names
from transnext_models.dense_data.find import open_validation
from transnext_models.dense_evaluation import subjects
from transnext_models.dense_evaluation.mean_iou import count_pixels, mean_iou
from transnext_models.detecting import Detector
from transnext_models.segmentation import WHOLE_PADDED
from transnext_models.segmenting import Segmentor

pytest.importorskip("pycocotools")

COUNT = 3
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    write_set(place, COUNT)
    return place


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of both demonstrators' architectures, for the set's classes."""
    place = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, logits in (("maskrcnn", "roi_head.bbox_head.fc_cls"), ("upernet", None)):
        model = create_model(f"{name}_transnext_pico", num_classes=CLASSES)
        state = model.state_dict()
        if logits is not None:
            state[f"{logits}.weight"] *= 30
        else:
            state["decode_head.conv_seg.weight"] *= 30
            for bias in (values for key, values in state.items() if "cpb" in key):
                bias *= 8  # so that it is seen how the position bias is resized
        save_file(state, place / f"{name}.safetensors")
    return place


def evaluate(transnext: Command, place: Path, *arguments: object) -> list[dict[str, Any]]:
    code, out, err = transnext(
        *("evaluate", *arguments, "--workers", 0, "--json", "--device", "cpu"),
        *("--output", place / "rows.csv"),
    )
    assert code == 0, err
    return json.loads(out)["rows"]


def test_a_detector_s_objects(
    transnext: Command, data: Path, weights: Path, tmp_path: Path
) -> None:
    file = weights / "maskrcnn.safetensors"
    saved = tmp_path / "found.json"
    rows = evaluate(
        *(transnext, tmp_path, "detect", "maskrcnn_transnext_pico", "--weights", file),
        *("--data", data, "--save-predictions", saved),
    )
    assert [row["metric"] for row in rows] == ["box AP", "mask AP"]
    for row in rows:
        assert row["model"].startswith("maskrcnn_transnext_pico.")
        assert len(row["weights_sha256"]) == 64
        assert (row["images"], row["precision"], row["device"]) == (COUNT, "float32", "cpu")
        assert row["param_count"] > 0
        assert row["backend"]

    detector = Detector.load("maskrcnn_transnext_pico", file, device="cpu")
    entries = json.loads(saved.read_text())
    annotated, _ = open_validation(data, "detect")
    assert len(entries) > COUNT
    for image in annotated.images:
        (result,) = detector.detect(image.path, threshold=0, max_objects=100)
        ours = [entry for entry in entries if entry["image_id"] == image.image_id]
        found = result.found
        assert [entry["category_id"] for entry in ours] == [5 * n + 2 for n in found.labels]
        np.testing.assert_allclose([entry["score"] for entry in ours], found.scores, rtol=1e-5)
        corners = np.array([entry["bbox"] for entry in ours])
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(corners, found.boxes, atol=0.01)
        for entry, mask in zip(ours, found.masks, strict=True):
            assert entry["segmentation"] == {"size": [40, 60], "counts": mask.packed()}


def test_a_segmentor_s_modes(
    transnext: Command,
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each row against softmaxes that are computed plainly here: twelve for several scales."""
    cv2 = pytest.importorskip("cv2")
    file, saved = weights / "upernet.safetensors", tmp_path / "maps"
    modes = ("published", "multi_scale", "multi_scale_extrapolated")
    loaded: list[Segmentor] = []
    load = Segmentor.load

    def noted(*arguments: Any, **options: Any) -> Segmentor:
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(subjects.Segmentor, "load", noted)
    rows = evaluate(
        *(transnext, tmp_path, "segment", "upernet_transnext_pico", "--weights", file),
        *("--data", data, "--mode", ",".join(modes), "--save-predictions", saved),
        *("--limit", 1),
    )
    assert [row["mode"] for row in rows] == ["single", *modes[1:]]
    assert [(one.inference.averages, one.model.backbone.position_bias) for one in loaded] == [
        (False, "interpolate"), (True, "interpolate"), (True, "extrapolate"),
    ]  # fmt: skip
    assert [one.model.backbone.img_size for one in loaded[1:]] == [800, 800]

    long, short = loaded[0].inference.scale
    annotated, _ = open_validation(data, "segment")
    for row, mode in zip(rows, modes, strict=True):
        options = {"img_size": 800} if mode != "published" else {}
        if mode == "multi_scale_extrapolated":
            options["position_bias"] = "extrapolate"
        model = create_model("upernet_transnext_pico", weights=file, **options).eval()
        ratios = (1.0,) if mode == "published" else RATIOS
        counts, right = [], 0
        for image in annotated.images[:1]:
            pixels = np.asarray(Image.open(image.path))
            height, width = pixels.shape[:2]
            total = torch.zeros(1, CLASSES, height, width)
            for ratio in ratios:
                sides = int(long * ratio), int(short * ratio)
                factor = min(sides[0] / max(height, width), sides[1] / min(height, width))
                size = int(width * factor + 0.5), int(height * factor + 0.5)
                view = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
                view = (view.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
                x = torch.from_numpy(view).permute(2, 0, 1)[None]
                for mirrored in (False,) if mode == "published" else (False, True):
                    with torch.inference_mode():
                        logits = model(x.flip(-1) if mirrored else x)
                        logits = F.interpolate(
                            logits, (height, width), mode="bilinear", align_corners=False
                        )
                    share = logits.softmax(1)
                    total += share.flip(-1) if mirrored else share
            wanted = total[0].argmax(0).numpy()
            folder = saved / row["mode"]
            got = np.asarray(Image.open(folder / Path(image.path).name))
            right += int((wanted == got).sum())
            labels = np.asarray(Image.open(image.label_file.path))
            counts.append(count_pixels(image.image_id, wanted, labels, CLASSES))
        assert right >= 0.999 * 40 * 60  # but for ties
        assert row["value"] == pytest.approx(100 * mean_iou(counts).miou, abs=0.2)


def test_slide_is_the_published_mode_of_upernet_alone(
    transnext: Command, data: Path, weights: Path, tmp_path: Path
) -> None:
    file = weights / "upernet.safetensors"
    arguments = ("segment", "upernet_transnext_pico", "--weights", file, "--data", data)
    (slide,) = evaluate(transnext, tmp_path, *arguments, "--mode", "slide")
    (published,) = evaluate(transnext, tmp_path, *arguments)
    assert slide == published  # not measured again
    (whole,) = evaluate(transnext, tmp_path, *arguments, "--mode", "whole")
    assert (published["mode"], whole["mode"]) == ("single", "whole")


def test_dino_and_mask2former(
    transnext: Command,
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither has a small published size: their classes on a small backbone."""
    torch.manual_seed(0)
    file = weights / "upernet.safetensors"  # only its hash counts here
    detector = Detector(
        small_dino(CLASSES), scale=(96, 64),
        name="dino_4scale_transnext_tiny.in1k_coco", weights=file,
    )  # fmt: skip
    segmentor = Segmentor(
        small_segmentor("mask2former", CLASSES).float(), replace(WHOLE_PADDED, scale=(96, 64)),
        name="mask2former_transnext_tiny.in1k_ade20k", weights=file,
    )  # fmt: skip
    monkeypatch.setattr(subjects.Detector, "load", lambda *_, **__: detector)
    monkeypatch.setattr(subjects.Segmentor, "load", lambda *_, **__: segmentor)
    (row,) = evaluate(transnext, tmp_path, "detect", "--data", data)
    assert (row["metric"], row["published"]) == ("box AP", None)  # DINO has no masks
    (row,) = evaluate(transnext, tmp_path, "segment", "--data", data)
    assert (row["metric"], row["mode"]) == ("mIoU", "single")


def test_published_numbers_stand_beside_the_published_sets(
    transnext: Command, data: Path, tmp_path: Path, weights: Path
) -> None:
    """80 categories of COCO's ids make a set COCO; one that is not whole is marked, or refused."""
    file = data / "annotations" / "instances_val2017.json"
    document = json.loads(file.read_text())
    numbers = category_ids(class_names(80))
    document["categories"] = [{"id": number, "name": str(number)} for number in numbers]
    document["annotations"] = [{**entry, "category_id": 1} for entry in document["annotations"]]
    own = tmp_path / "instances.json"
    own.write_text(json.dumps(document))
    (tmp_path / "none.json").write_text("[]")
    arguments = (
        *("evaluate", "detect", "dino_5scale_transnext_base", "--images", data / "val2017"),
        *("--annotations", own, "--predictions", tmp_path / "none.json"),
        *("--output", tmp_path / "rows.csv", "--json"),
    )
    code, out, _ = transnext(*arguments)
    assert code == 1
    assert "got 3 images, coco has 5,000" in json.loads(out)["error"]
    code, out, err = transnext(*arguments, "--allow-incomplete")
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert (row["set"], row["published"], row["value"]) == ("coco", 57.1, 0.0)
    assert row["note"] == "incomplete: 3 of 5,000 images"
