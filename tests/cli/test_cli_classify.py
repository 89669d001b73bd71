"""``transnext classify`` as a user meets it: results, JSON, broken images, exit codes, errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from stand_in_hub import stand_in_hub, use_endpoint
from transnext_models import create_model
from transnext_models.classification import classifier as classifier_module
from transnext_models.classification.preprocess import Preprocess
from transnext_models.classifier import Classifier
from transnext_models.cli.application import app
from transnext_models.images import ImageError, read_image

MAIN = "from transnext_models.cli import main; main()"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(1)
    network = create_model("transnext_pico").eval()
    torch.nn.init.normal_(network.head.weight, std=0.2)
    return network


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "pico.safetensors"
    save_file(model.state_dict(), path)
    return path


def image_name(index: int) -> str:
    return f"image_{index:02d}.{('png', 'jpg', 'webp')[index % 3]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eleven images of several formats, two broken ones, and a text."""
    path = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(11):
        side = 40 + 3 * index
        values = generator.integers(0, 256, (side, 50, 3), dtype=np.uint8)
        Image.fromarray(values).save(
            path / f"image_{index:02d}.{('png', 'jpg', 'webp')[index % 3]}"
        )
    (path / "image_04_broken.png").write_bytes(b"no image")
    (path / "image_99_empty.jpg").write_bytes(b"")
    (path / "notes.txt").write_text("not an image, and not called one")
    return path


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


# -- which model ----------------------------------------------------------------------------------


def test_published_layouts_of_weights(transnext, model, folder, tmp_path):
    state = model.state_dict()
    image = folder / "image_00.png"
    results = []
    for name, content in (
        ("bare.pth", state),
        ("training.pth", {"model": state, "epoch": 1}),
        ("wrapped.pth", {"state_dict": {f"backbone.{k}": v for k, v in state.items()}}),
    ):
        torch.save(content, tmp_path / name)
        code, out, _ = transnext("classify", image, "--weights", tmp_path / name, "--json")
        assert code == 0
        results.append(json.loads(out)["images"][0]["predictions"])
    assert results[0] == results[1] == results[2]


def test_own_classes_and_sizes(transnext, folder, tmp_path):
    """Weights of a training run say their image sizes and may say their class names."""
    torch.manual_seed(0)
    network = create_model("transnext_pico", num_classes=3)
    names = ["ant", "bee", "wasp"]
    metadata = {"img_size": "96", "pretrain_size": "96", "class_names": json.dumps(names)}
    save_file(network.state_dict(), tmp_path / "insects.safetensors", metadata=metadata)
    loaded = Classifier.load(weights=tmp_path / "insects.safetensors")
    assert loaded.labels == names
    assert loaded.preprocess.size == 96
    assert loaded.model.pretrain_size == 96
    image = folder / "image_00.png"
    _, out, _ = transnext("classify", image, "--weights", tmp_path / "insects.safetensors")
    assert sorted(re.findall(r"ant|bee|wasp", out)) == names


@pytest.mark.parametrize(
    "metadata",
    [
        {"img_size": "huge", "pretrain_size": "-1", "class_names": "["},
        {"img_size": "8", "pretrain_size": "", "class_names": '["one"]'},
        {"img_size": "9" * 5000, "class_names": "3"},
    ],
)
def test_odd_metadata_is_ignored(tmp_path, model, metadata):
    save_file(model.state_dict(), tmp_path / "x.safetensors", metadata=metadata)
    loaded = Classifier.load(weights=tmp_path / "x.safetensors")
    assert loaded.labels == list("0123456789")
    assert loaded.preprocess.size == loaded.model.pretrain_size == 64


def test_a_published_file_brings_its_own_preprocessing(tmp_path):
    """Whether the model is named or not; a name with a tag means the weights of that tag."""
    path = tmp_path / "transnext_small_384_1k_ft_1k.pth"
    torch.save(create_model("transnext_small").half().state_dict(), path)
    for model, size in ((None, 384), ("transnext_small", 384), ("transnext_small.in1k", 224)):
        assert Classifier.load(model, path, device="cpu").preprocess.size == size


def test_weights_by_hub_name(transnext, weights, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with stand_in_hub() as hub:
        hub.files["me/digits/model.safetensors"] = weights.read_bytes()
        use_endpoint(monkeypatch, hub.url)
        image = folder / "image_00.png"
        code, out, err = transnext("classify", image, "--weights", "me/digits", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["weights"].endswith("model.safetensors")


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give image files, folders or patterns, or --samples"),
        (("x.png", "--size", "31"), "Invalid value for '--size'"),
        (("x.png", "--batch-size", "0"), "Invalid value for '--batch-size'"),
        (("x.png", "--top-k", "0"), "Invalid value for '--top-k'"),
        (("x.png", "--model", "transnext_tinny"), "did you mean transnext_tiny"),
        (("x.png", "--model", "transnext_tiny.in22k"), "has no checkpoint 'in22k'"),
        (("x.png", "--device", "gpu"), "one of auto, cpu, cuda"),
        (("x.png", "--device", "meta"), "one of auto, cpu, cuda"),
        (("x.png", "--device", "cuda:77"), "torch sees"),
        (("x.png", "--backend", "cuda"), "needs one of 'auto'"),
        (("x.png", "--no-such-option"), "No such option"),
    ],
)
def test_usage_errors(transnext, arguments, message):
    code, out, err = transnext("classify", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())


def one_line_error(outcome: Any) -> str:
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    return outcome.err


def test_weights_of_another_model(transnext, weights, folder):
    outcome = transnext("classify", folder, "--weights", weights, "--model", "transnext_micro")
    message = one_line_error(outcome)
    assert "pico.safetensors" in message
    assert "transnext_pico with 10 classes" in message
    assert "transnext_micro" in message


def test_weights_that_are_none(transnext, folder, tmp_path):
    (tmp_path / "page.pth").write_text("<html>Sign in</html>")
    outcome = transnext("classify", folder, "--weights", tmp_path / "page.pth")
    assert "page.pth: a web page" in one_line_error(outcome)
    outcome = transnext("classify", folder, "--weights", tmp_path / "gone.pth")
    assert "gone.pth is not there" in one_line_error(outcome)


def test_backbone_weights_name_no_classes(transnext, model, folder, tmp_path):
    state = {key: value for key, value in model.state_dict().items() if "head" not in key}
    save_file(state, tmp_path / "backbone.safetensors")
    outcome = transnext("classify", folder, "--weights", tmp_path / "backbone.safetensors")
    assert "no classification head" in one_line_error(outcome)


def test_weights_of_an_unknown_architecture(transnext, folder, tmp_path):
    from small_model import small_model

    save_file(small_model().float().state_dict(), tmp_path / "own.safetensors")
    outcome = transnext("classify", folder, "--weights", tmp_path / "own.safetensors")
    assert "say which with --model" in one_line_error(outcome)


def test_no_network_says_what_to_do(transnext, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = one_line_error(transnext("classify", folder, "--model", "transnext_tiny"))
    assert "transnext_tiny_224_1k.pth of DaiShiResearch/transnext-tiny-224-1k" in message
    assert str(tmp_path / "cache") in message
    assert "--weights FILE" in message


def test_unexpected_errors_point_to_the_traceback(transnext, weights, folder, monkeypatch):
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(classifier_module.Classifier, "load", broken)
    arguments = ("classify", folder, "--weights", weights)
    assert "ZeroDivisionError: odd" in (message := one_line_error(transnext(*arguments)))
    assert "--debug" in message
    with pytest.raises(ZeroDivisionError):
        app([*map(str, arguments), "--debug"], prog_name="transnext")


def test_out_of_memory_says_batch_size(transnext, weights, folder, monkeypatch):
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setattr(Classifier, "_warm_up", lambda self: None)
    monkeypatch.setattr(torch.nn.Module, "__call__", full)
    outcome = transnext("classify", folder / "*.png", "--weights", weights)
    assert outcome.code == 1
    assert "out of memory on cpu with a batch of" in outcome.err
    assert "smaller batch size" in outcome.err


# -- the classifier itself ------------------------------------------------------------------------


def test_few_images_are_in_memory(weights, folder, monkeypatch):
    """Decoding stays at most one batch ahead of the model."""
    loaded = Classifier.load(weights=weights)
    data = (folder / "image_00.png").read_bytes()
    taken = 0

    def images() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield data

    results = loaded.classify(images(), batch_size=4)
    for _ in range(9):
        next(results)
    time.sleep(0.2)
    assert taken == 16
    results.close()


def test_result_objects(weights, folder):
    loaded = Classifier.load(weights=weights)
    good, bad = loaded.classify([folder / "image_00.png", folder / "image_04_broken.png"], top_k=2)
    assert good.path == folder / "image_00.png"
    assert len(good.predictions) == 2
    assert good.seconds > 0
    assert isinstance(bad, ImageError)
    assert list(loaded.classify([])) == []
    with pytest.raises(ValueError, match="batch_size"):
        next(loaded.classify(["x"], batch_size=0))
    with pytest.raises(ValueError, match="top_k"):
        next(loaded.classify(["x"], top_k=0))


# -- as a program of its own ----------------------------------------------------------------------


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_imports_only_what_it_needs(weights, folder):
    check = (
        "import sys, atexit\n"
        "slow = ('timm', 'lightning', 'torchvision', 'cupy', 'matplotlib', 'sklearn')\n"
        "atexit.register(lambda: print(*(n for n in slow if n in sys.modules), file=sys.stderr))\n"
    )
    command = [sys.executable, "-c", check + MAIN, "classify", folder / "image_00.png"]
    done = subprocess.run(
        [*map(str, command), "--weights", str(weights), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0
    assert done.stderr.strip() == ""
    assert len(json.loads(done.stdout)["images"]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text")
def test_any_name_on_an_ascii_output(weights, folder, tmp_path):
    """Names of bytes that are no text, labels and bars: all can be printed."""
    name = os.fsencode(tmp_path / "na\u00efve-") + b"\xff.png"
    Path(os.fsdecode(name)).write_bytes((folder / "image_00.png").read_bytes())
    command = [sys.executable, "-c", MAIN, "classify", name, "--weights", str(weights)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("ascii").splitlines()
    assert r"na\xefve-\udcff.png" in lines[0]
    assert re.fullmatch(r"  \d  +[\d.]+ %  #+", lines[1])


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_interrupt_is_quiet(weights, folder):
    process = start("classify", folder, "--weights", weights, "--batch-size", 1)
    assert process.stdout is not None
    process.stdout.readline()  # it is at work now
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    # On a fast machine it may have been done already.
    assert (process.returncode, "interrupted" in err) in ((130, True), (1, False))


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_a_reader_that_leaves_is_no_error(weights, folder):
    process = start("classify", folder, "--weights", weights, "--batch-size", 1)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(timeout=60) in (141, 1)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
