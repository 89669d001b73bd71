"""``transnext classify`` as a user meets it: results, JSON, broken images, the packaged weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from transnext_models.classification.preprocess import Preprocess
from transnext_models.images import read_image


def image_name(index: int) -> str:
    return f"image_{index:02d}.{('png', 'jpg', 'webp')[index % 3]}"


def expected_probabilities(model: torch.nn.Module, path: Path) -> torch.Tensor:
    preprocess = Preprocess(
        64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_mode="squash", crop_pct=1.0
    )
    with torch.inference_mode():
        return model(preprocess(read_image(path))[None]).softmax(-1)[0]


# -- results --------------------------------------------------------------------------------------


def test_table(transnext, weights, folder, model):
    path = folder / "image_00.png"
    code, out, err = transnext("classify", path, "--weights", weights)
    assert code == 0
    lines = out.splitlines()
    title = re.fullmatch(rf"{re.escape(str(path))}  [\d.]+ (ms|s)", lines[0])
    assert title, lines[0]
    rows = [re.fullmatch(r"  (\d)  +([\d.]+) %  ?[▏▎▍▌▋▊▉█]*", line) for line in lines[1:6]]
    assert all(rows), lines
    top = expected_probabilities(model, path).topk(5)
    assert [int(row[1]) for row in rows] == top.indices.tolist()
    shown = [float(row[2]) for row in rows]
    assert shown == pytest.approx([100 * value for value in top.values.tolist()], abs=0.006)
    assert lines[6:] == [""]
    assert all(line == line.rstrip() for line in lines)
    assert "transnext_pico.mnist5k · 10 classes · 64x64 pixels" in err
    assert "on cpu" in err


def test_json_is_all_there_is(transnext, weights, folder, model):
    path = folder / "image_01.jpg"
    code, out, err = transnext("classify", path, "--weights", weights, "--json", "--top-k", 3)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["model"] == "transnext_pico.mnist5k"
    assert document["weights"] == str(weights)
    assert document["size"] == 64
    assert document["device"] == "cpu"
    assert document["backend"] in ("torch", "cpp")
    assert document["skipped"] == []
    (image,) = document["images"]
    assert image["file"] == str(path)
    assert image["time_ms"] > 0
    top = expected_probabilities(model, path).topk(3)
    assert [entry["class"] for entry in image["predictions"]] == top.indices.tolist()
    assert [entry["label"] for entry in image["predictions"]] == list(
        map(str, top.indices.tolist())
    )
    got = [entry["probability"] for entry in image["predictions"]]
    assert got == pytest.approx(top.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_folder_with_broken_images(transnext, weights, folder, model, batch_size):
    """Every good image is classified, in order; broken ones are told; the exit code says so."""
    arguments = ("classify", folder, "--weights", weights, "--batch-size", batch_size, "--json")
    code, out, err = transnext(*arguments)
    assert code == 1
    document = json.loads(out)
    good = [folder / image_name(index) for index in range(11)]
    assert [image["file"] for image in document["images"]] == list(map(str, good))
    for image, path in zip(document["images"], good, strict=True):
        best = image["predictions"][0]
        probabilities = expected_probabilities(model, path)
        assert best["class"] == int(probabilities.argmax())
        assert best["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert [Path(entry["file"]).name for entry in document["skipped"]] == [
        "image_04_broken.png",
        "image_99_empty.jpg",
    ]
    assert "image_04_broken.png: not an image of a known format" in err
    assert "image_99_empty.jpg: an empty file" in err
    assert "notes.txt" not in out + err


def test_summary_counts(transnext, weights, folder):
    code, out, err = transnext("classify", folder, "--weights", weights, "--top-k", 1)
    assert code == 1
    assert out.count(" %") == 11
    assert re.search(r"11 images in .*per second, decoding included\); 2 skipped\n$", err)


def test_pattern_and_missing_file(transnext, weights, folder):
    code, out, err = transnext(
        "classify", folder / "*.webp", folder / "gone.png", "--weights", weights, "--json"
    )
    assert code == 1
    assert len(json.loads(out)["images"]) == 3
    assert "gone.png: no such file or folder" in err


def test_nothing_found_loads_no_model(transnext, tmp_path):
    code, out, err = transnext("classify", tmp_path, "--weights", "whatever.pth", "--json")
    assert code == 1
    assert json.loads(out) == {
        "images": [],
        "skipped": [{"file": str(tmp_path), "error": json.loads(out)["skipped"][0]["error"]}],
    }
    assert "a folder without images (jpg, jpeg, png" in err


def test_top_k_is_limited_by_the_classes(transnext, weights, folder):
    image = folder / "image_00.png"
    _, out, _ = transnext("classify", image, "--weights", weights, "--json", "--top-k", 50)
    predictions = json.loads(out)["images"][0]["predictions"]
    assert len(predictions) == 10
    assert sum(entry["probability"] for entry in predictions) == pytest.approx(1)


def test_other_size(transnext, weights, folder):
    image = folder / "image_00.png"
    _, small, _ = transnext("classify", image, "--weights", weights, "--json")
    code, out, _ = transnext("classify", image, "--weights", weights, "--json", "--size", 96)
    assert code == 0
    assert json.loads(out)["size"] == 96
    assert (
        json.loads(out)["images"][0]["predictions"] != json.loads(small)["images"][0]["predictions"]
    )


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_backends_agree(transnext, weights, folder, model, backend):
    image = folder / "image_02.webp"
    code, out, _ = transnext(
        "classify", image, "--weights", weights, "--json", "--backend", backend
    )
    assert code == 0
    assert json.loads(out)["backend"] == backend
    got = [entry["probability"] for entry in json.loads(out)["images"][0]["predictions"]]
    assert got == pytest.approx(
        expected_probabilities(model, image).topk(5).values.tolist(), abs=1e-4
    )


def test_names_with_markup_and_blanks(transnext, weights, folder, tmp_path):
    path = tmp_path / "[red]odd[bold] naïve name.png"
    path.write_bytes((folder / "image_00.png").read_bytes())
    _, out, _ = transnext("classify", path, "--weights", weights)
    assert out.startswith(f"{path}  ")


def test_names_cannot_command_the_terminal(transnext, weights, folder, tmp_path):
    path = tmp_path / "a\x1b[31mred\rover.png"
    path.write_bytes((folder / "image_00.png").read_bytes())
    broken = tmp_path / "b\x1b[2J.png"
    broken.write_bytes(b"")
    code, out, err = transnext("classify", path, broken, "--weights", weights)
    assert code == 1
    assert r"a\x1b[31mred\rover.png" in out
    assert r"b\x1b[2J.png" in err
    assert "\x1b" not in out + err


# -- the weights in this package ------------------------------------------------------------------


def test_samples_without_any_option(transnext):
    """What the README shows first: the sample digits, by the model that comes with the package."""
    code, out, err = transnext("classify", "--samples", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["model"] == "transnext_pico.mnist5k"
    assert document["num_classes"] == 10
    assert len(document["images"]) >= 10
    for image in document["images"]:
        (digit,) = re.findall(r"digit_(\d)_", image["file"])
        assert image["predictions"][0]["label"] == digit


def test_a_scan_of_another_size(transnext, tmp_path):
    """A sample enlarged and stored as JPEG is read as well."""
    sample = next(iter(sorted(samples_folder().glob("digit_4_*.png"))))
    read_image(sample).resize((300, 300)).save(tmp_path / "four.jpg")
    code, out, _ = transnext("classify", tmp_path / "four.jpg", "--json")
    assert code == 0
    assert json.loads(out)["images"][0]["predictions"][0]["label"] == "4"


def samples_folder() -> Path:
    import transnext_models

    return Path(transnext_models.__file__).parent / "assets" / "samples"
