"""Real models through the command: the demonstrator on its digits, and one of timm's."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from evaluation.conftest import Command
from evaluation.made_up_sets import paint
from transnext_models import create_model
from transnext_models.checkpoints.digest import sha256
from transnext_models.checkpoints.hub import resolve_weights
from transnext_models.evaluation.class_lists import wnids
from transnext_models.evaluation.models import MODES, load_evaluated, mode_options
from transnext_models.evaluation.results import Results
from transnext_models.training.digits import held_out_digits

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstrator's held-out digits as a folder for each class."""
    folder = tmp_path_factory.mktemp("digits")
    held_out = held_out_digits()
    for pixels, label, index in zip(
        held_out.images, held_out.labels, held_out.indices, strict=True
    ):
        file = folder / str(label) / f"{index:04d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    return folder


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_demonstrators_digits_give_the_number_of_the_readme(
    transnext: Command, digits: Path, tmp_path: Path
) -> None:
    text = README.read_text(encoding="utf-8").replace("\n", " ")
    stated = re.search(r"right on ([\d.]+) % as the files are", text)
    assert stated
    output = tmp_path / "results.csv"
    code, printed, remarks = transnext(
        "evaluate", "--folder", digits, "--output", output, "--workers", 0, "--device", "cpu"
    )
    assert code == 0, remarks
    (row,) = table(output)
    assert (row["model"], row["images"], row["note"]) == ("transnext_pico.mnist5k", "1000", "")
    assert float(row["top1"]) == float(stated[1])
    assert row["weights_sha256"] == sha256(Path(resolve_weights("transnext_pico")))
    assert f"{stated[1]}0 %" in printed
    assert "alone the loader would do" in remarks
    document = json.loads(output.with_suffix(".json").read_text())["rows"][0]["details"]
    assert sum(of["correct"] for of in document["per_class"].values()) == document["correct1"]
    assert set(document["per_class"]) == set("0123456789")
    assert document["versions"]["torch"] == torch.__version__
    assert 0 < document["expected_calibration_error"] < 0.2
    assert len(document["calibration_bins"]) == 15


@pytest.fixture(scope="module")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    for label in range(10):
        (folder / str(label)).mkdir()
        for file in sorted((digits / str(label)).iterdir())[:6]:
            (folder / str(label) / file.name).symlink_to(file)
    return folder


def test_modes_agree_at_the_training_size_and_differ_elsewhere(
    transnext: Command, few_digits: Path, tmp_path: Path
) -> None:
    output = tmp_path / "sizes.csv"
    code, printed, remarks = transnext(
        *("evaluate", "transnext_pico", "--folder", few_digits, "--size", "64,96,128"),
        *("--mode", ",".join(MODES), "--output", output, "--workers", 0, "--device", "cpu"),
        *("--figure", "sizes"),
    )
    assert code == 0, remarks
    rows = Results(output).rows
    assert [(row["mode"], row["img_size"]) for row in rows] == [
        (mode, size) for mode in MODES for size in (64, 96, 128)
    ]
    losses = {(row["mode"], row["img_size"]): row["loss"] for row in rows}
    right = {(row["mode"], row["img_size"]): row["top1"] for row in rows}
    for mode in MODES:
        assert losses[mode, 64] == pytest.approx(losses["normal", 64], abs=1e-4)
        assert right[mode, 64] == right["normal", 64]
    for size in (96, 128):
        assert len({losses[mode, size] for mode in MODES}) == len(MODES)
    assert {(row["mode"], row["pool"], row["position_bias"]) for row in rows} == {
        ("normal", "ratio", "extrapolate"),
        ("linear", "2", "extrapolate"),
        ("interpolate", "ratio", "interpolate"),
        ("no-length-scaling", "ratio", "extrapolate"),
    }
    figure = tmp_path / "sizes-sizes.png"
    assert f"figure: {figure}" in printed
    with Image.open(figure) as picture:
        assert picture.size[0] > 800


def test_linear_mode_pools_as_published() -> None:
    for name, side in (("transnext_micro", 7), ("transnext_micro_AAAA", 4)):
        model = create_model(name, num_classes=2)
        assert mode_options("linear", model) == {"fixed_pool_size": side}


def test_rows_of_several_weights_share_a_table(
    transnext: Command, few_digits: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "other.safetensors"
    save_file(create_model("transnext_pico").state_dict(), weights)
    output = tmp_path / "results.csv"
    common = ("--folder", few_digits, "--output", output, "--workers", 0, "--device", "cpu")
    for options in ((), ("--weights", weights), ("--precision", "bfloat16"), ()):
        code, _, remarks = transnext("evaluate", "--model", "transnext_pico", *options, *common)
        assert code == 0, remarks
    rows = table(output)
    assert [row["precision"] for row in rows] == ["float32", "float32", "bfloat16"]
    assert rows[1]["weights_sha256"] == sha256(weights)
    assert float(rows[1]["top1"]) < 50 < float(rows[0]["top1"])
    assert rows[0]["top1"] == rows[2]["top1"]


def test_a_model_of_timm(transnext: Command, tmp_path: Path) -> None:
    """Its logits, its normalisation; the published rule decides between crop and warp."""
    torch.manual_seed(0)
    name = "test_convnext.r160_in1k"
    network = timm.create_model(name, pretrained=False).eval()
    torch.nn.init.normal_(network.head.fc.weight, std=1.0)
    weights = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), weights)
    for number in range(6):
        paint(tmp_path / "val" / wnids()[number] / "x.png", 170 * number, side=180)
    output = tmp_path / "results.csv"
    code, _, remarks = transnext(
        *("evaluate", f"timm/{name}", "--weights", weights, "--imagenet", tmp_path / "val"),
        *("--allow-incomplete", "--size", "160,384", "--output", output, "--workers", 0),
        *("--device", "cpu", "--save-predictions", tmp_path / "answers.npz"),
    )
    assert code == 0, remarks
    rows = table(output)
    assert [row["crop_mode"] for row in rows] == ["center", "squash"]
    assert {row["model"] for row in rows} == {f"timm/{name}"}
    model = load_evaluated(f"timm/{name}", str(weights))
    transform = timm.data.create_transform(
        (3, 160, 160), mean=network.pretrained_cfg["mean"], std=network.pretrained_cfg["std"],
        interpolation="bicubic", crop_pct=0.875,
    )  # fmt: skip
    with Image.open(tmp_path / "val" / wnids()[3] / "x.png") as image:
        wanted = transform(image.convert("RGB"))
    torch.testing.assert_close(model.normal(160)(image), wanted, rtol=0, atol=1e-5)
    with torch.no_grad():
        best = network(wanted[None]).argmax().item()
    with np.load(tmp_path / "answers.npz") as saved:
        (top,) = (saved[name] for name in saved.files if "/160/" in name and name[-4:] == "top5")
    assert top[3, 0] == best


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("timm/test_convnext", "--mode", "linear"), "mode: got 'linear', needs normal"),
        (("timm/no_such_model",), "model: got timm/no_such_model"),
        (("timm/test_convnext", "--backend", "torch"), "needs a TransNeXt"),
        (("transnext_pico", "--imagenet", "."), "with 10 classes, needs a model of ImageNet's"),
        (("transnext_pico", "--model", "transnext_tiny"), "needs one model"),
        (("transnext_pico", "--size", "224,big"), "needs numbers such as 224,256,320"),
        (("transnext_pico", "--figure", "losses"), "needs one of sizes"),
        (("transnext_pico", "--output", "results.txt"), "needs a name that ends in .csv"),
        (("transnext_pico", "--save-predictions", "x.npy"), "needs a name that ends in .npz"),
    ],
)
def test_calls_that_make_no_sense(
    transnext: Command, few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "timm.models._builder.load_pretrained", lambda *_, **__: None
    )  # no download
    code, printed, remarks = transnext(
        "evaluate", *arguments, "--folder", few_digits, "--allow-incomplete", "--workers", 0
    )
    assert code in (1, 2)
    assert message in " ".join(remarks.replace("│", " ").split())
    assert not printed
    assert not list(tmp_path.iterdir())


def test_nothing_to_evaluate_is_said(transnext: Command) -> None:
    code, _, remarks = transnext("evaluate", "transnext_pico")
    assert code == 2
    assert "needs one at least" in " ".join(remarks.replace("│", " ").split())


@pytest.mark.slow
def test_two_processes_of_torchrun(few_digits: Path, tmp_path: Path) -> None:
    """One table, one voice; and an error is said once."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
                *("--master-port", str(port), "-m", "transnext_models.cli.evaluate"),
                *("--workers", "1", "--device", "cpu", *map(str, arguments)),
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=300,
        )

    done = launch("--folder", few_digits, "--output", tmp_path / "results.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("transnext_pico.mnist5k") == 1
    (row,) = table(tmp_path / "results.csv")
    assert row["images"] == "60"
    wrong = launch("--folder", tmp_path / "nowhere", "--output", tmp_path / "other.csv")
    assert wrong.returncode != 0
    assert wrong.stderr.count("nowhere, which does not exist") == 1
    assert not (tmp_path / "other.csv").exists()
