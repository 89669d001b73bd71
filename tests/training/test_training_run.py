"""The real entry point trains, exports and complains."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

import transnext_models
from training.short_runs import digits, metrics
from transnext_models import create_model
from transnext_models.checkpoints import read_state_dict
from transnext_models.classification.preprocess import Preprocess
from transnext_models.cli import train as command
from transnext_models.training import digit_augmentation
from transnext_models.training.data import ImageData
from transnext_models.training.module import ClassifierModule
from transnext_models.training.recipes import get_recipe
from transnext_models.training.run import RunOptions, RunResult, train


def transnext_train(*arguments: str) -> Result:
    """Run the command as a user does."""
    app = typer.Typer()
    command.register(app)
    return CliRunner().invoke(app, list(arguments))


def test_digits_are_learnt_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Scans rather than photographs: these a model begins to learn within a few steps.
    monkeypatch.setattr(digit_augmentation, "PLAIN_PROBABILITY", 1.0)
    run = tmp_path / "run"
    result = transnext_train(
        *("--recipe", "digits", "--output", str(run), "--epochs", "3", "--batch-size", "32"),
        *("--lr", "3e-3", "--limit-train-batches", "14", "--limit-val-batches", "2"),
    )
    assert result.exit_code == 0, result.output
    assert f"weights: {run / 'model.safetensors'}" in result.output.replace("\n", "")

    rows = metrics(run)
    losses = [float(row["train_loss"]) for row in rows]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert losses[2] < losses[0] - 0.1
    assert 0 <= float(rows[2]["val_top1"]) <= 1

    configuration = json.loads((run / "config.json").read_text())
    assert configuration["recipe"]["name"] == "digits"
    assert configuration["resolved"]["peak_lr"] == pytest.approx(3e-3)
    assert {file.name for file in (run / "checkpoints").iterdir()} == {
        "last.ckpt",
        "previous.ckpt",
        "best.ckpt",
    }

    full = read_state_dict(run / "model.safetensors")
    half = read_state_dict(run / "model_float16.safetensors")
    assert {value.dtype for value in full.values()} == {torch.float32}
    assert {value.dtype for value in half.values()} == {torch.float16}
    # The averaged weights, which the checkpoint holds in their own place, are the exported ones.
    for checkpoint, weights in (("last", "last"), ("best", "model")):
        saved = torch.load(run / "checkpoints" / f"{checkpoint}.ckpt", weights_only=True)
        exported = read_state_dict(run / f"{weights}.safetensors")
        assert all(
            torch.equal(saved["state_dict"][f"model.{name}"], value)
            for name, value in exported.items()
        )

    images = torch.randn(2, 3, 64, 64)
    logits = []
    for file in ("model.safetensors", "model_float16.safetensors"):
        model = create_model("transnext_pico", weights=run / file).eval()
        with torch.no_grad():
            logits.append(model(images))
    assert torch.allclose(logits[0], logits[1], atol=0.05)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(digits(tmp_path_factory.mktemp("whole")))


def test_resuming_otherwise_than_begun_is_refused(whole_run: RunResult) -> None:
    folder = whole_run.weights.parent
    with pytest.raises(ValueError, match=r"--resume .*total_batch was 8 and is 16"):
        train(digits(folder, resume=folder, batch_size=16))


def test_new_run_does_not_overwrite_an_old_one(whole_run: RunResult) -> None:
    with pytest.raises(ValueError, match=r"already holds a run.*--resume"):
        train(digits(whole_run.weights.parent))


def test_imagenet_recipe_trains_on_a_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = ClassifierModule.training_step

    def watched(self: ClassifierModule, batch: Any) -> torch.Tensor:
        seen.append(batch)
        return step(self, batch)

    monkeypatch.setattr(ClassifierModule, "training_step", watched)
    result = transnext_train(
        *("--recipe", "imagenet_224", "--data", str(images), "--output", str(tmp_path / "run")),
        *("--model", "transnext_pico", "--num-classes", "3", "--img-size", "64"),
        *("--epochs", "2", "--batch-size", "4", "--accumulate", "2", "--workers", "0"),
        *("--limit-train-batches", "4"),
    )
    assert result.exit_code == 0, result.output
    assert len(seen) == 8
    for pictures, targets in seen:
        assert (pictures.shape, targets.shape) == ((4, 3, 64, 64), (4, 3))
        assert torch.allclose(targets.sum(dim=1), torch.ones(4))
        assert targets.min() >= 0.1 / 3 - 1e-6  # smoothed
        assert pictures.isfinite().all()
    assert any(((targets > 0.1).sum(dim=1) > 1).any() for _, targets in seen)  # mixed
    resolved = json.loads((tmp_path / "run" / "config.json").read_text())["resolved"]
    assert (resolved["total_batch"], resolved["pretrain_size"]) == (8, 224)
    assert resolved["peak_lr"] == 1e-3  # whatever the batch
    assert [int(row["step"]) for row in metrics(tmp_path / "run")] == [2, 4]

    # Fine-tuning starts from the exported weights, with another number of classes if asked.
    weights = tmp_path / "run" / "model.safetensors"
    tuned = train(
        RunOptions(
            recipe="imagenet_384_ft",
            data=str(images),
            model="transnext_pico",
            weights=str(weights),
            num_classes=3,
            img_size=64,
            epochs=1,
            batch_size=2,
            workers=0,
            limit_train_batches=1,
            limit_val_batches=1,
            output=tmp_path / "tuned",
            half=False,
        )
    )
    before, after = read_state_dict(weights), read_state_dict(tuned.weights)
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 0 < moved < 1.1e-5  # one step of 1e-5
    assert tuned.half_weights is None


def test_image_data_uses_every_published_augmentation(images: Path) -> None:
    recipe = get_recipe("imagenet_224")
    preprocess = Preprocess(64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    data = ImageData(str(images), recipe, preprocess, batch_size=6, workers=0, seed=0)
    assert data.num_classes == 3
    steps = {type(step).__name__: step for step in data.train_set.transform.transforms}  # type: ignore[attr-defined]
    assert {"RandomResizedCropAndInterpolation", "RandAugment", "RandomErasing"} <= steps.keys()
    assert steps["RandomErasing"].probability == 0.25
    order = data.order(epoch=0).tolist()
    assert order == [index for index in order[::3] for _ in range(3)]  # three times in a row
    assert len(order) == 18 == data.epoch_length  # an epoch keeps its length
    data.enable_mixup(3)
    assert (data.mixup.mixup_alpha, data.mixup.cutmix_alpha) == (0.8, 1.0)
    assert data.val_set.transform is preprocess  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "imagenet_22"], "recipe: got 'imagenet_22', needs one of imagenet_224, "),
        (
            ["--recipe", "imagenet_224"],
            "--data: got nothing, needs a folder with train/ and val/ for recipe 'imagenet_224'",
        ),
        (["--recipe", "imagenet_224", "--data", "nowhere"], "--data nowhere is neither a folder"),
        (
            ["--recipe", "imagenet_224", "--data", "digits"],
            "--recipe: got 'imagenet_224', needs digits",
        ),
        (["--recipe", "digits", "--data", "IMAGES"], "recipe 'digits' has no augmentation"),
        (
            ["--recipe", "imagenet_224", "--data", "EMPTY"],
            "which has no train images, needs train/<class>/<image>",
        ),
        (
            ["--recipe", "imagenet_224", "--data", "IMAGES", "--batch-size", "6"],
            "--num-classes: got 1000, needs 3, the number of classes in --data",
        ),
        (
            ["--recipe", "imagenet_224", "--data", "IMAGES", "--batch-size", "3"],
            "--batch-size: got 3, needs an even number for mixup",
        ),
        (
            ["--recipe", "imagenet_224", "--data", "IMAGES", "--num-classes", "3"],
            "has 18 training images, fewer than one batch of 128",
        ),
        (["--recipe", "digits", "--epochs", "0"], "--epochs: got 0, needs a positive number"),
        (["--recipe", "digits", "--lr", "-1"], "--lr: got -1.0, needs a positive number"),
        (
            ["--recipe", "digits", "--lr", "1e-3", "--scale-lr"],
            "--scale-lr: got it together with --lr 0.001, needs one of the two",
        ),
        (
            ["--recipe", "digits", "--accumulate", "3", "--limit-train-batches", "2"],
            "--limit-train-batches: got 2, needs at least --accumulate 3",
        ),
        (
            ["--recipe", "digits", "--accumulate", "63"],
            "fewer than one batch of 4032: lower --batch-size or --accumulate",
        ),
        (["--recipe", "digits", "--seed", "-1"], "--seed: got -1, needs 0 to 4294967295"),
        (
            ["--recipe", "digits", "--checkpoint-every-steps", "0"],
            "-steps: got 0, needs a positive number",
        ),
        (
            ["--recipe", "digits", "--checkpoint-every-minutes", "-1"],
            "-minutes: got -1.0, needs a positive number",
        ),
        (["--recipe", "digits", "--workers", "-1"], "--workers: got -1, needs 0 or more"),
        (["--recipe", "digits", "--resume", "nowhere"], "--resume nowhere: there is no checkpoint"),
        (["--recipe", "digits", "--model", "resnet50"], "resnet50"),
        (["--recipe", "digits", "--img-size", "16"], "--img-size: got 16, needs at least 32"),
        (
            ["--recipe", "digits", "--pretrain-size", "9"],
            "--pretrain-size: got 9, needs at least 32",
        ),
        (["--recipe", "digits", "--backend", "gpu"], "--backend: got 'gpu', needs one of 'auto'"),
        (
            ["--recipe", "digits", "--devices", "two"],
            "--devices: got 'two', needs auto, a number of devices",
        ),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"IMAGES": str(images), "EMPTY": str(tmp_path / "empty")}
    run = tmp_path / "run"
    result = transnext_train(*(places.get(word, word) for word in arguments), "--output", str(run))
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr
    assert not run.exists()


def test_splits_with_different_classes_are_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(images / "train")
    (tmp_path / "val").mkdir()
    for name in ("ant", "bee", "dog"):
        (tmp_path / "val" / name).symlink_to(images / "val" / ("cat" if name == "dog" else name))
    result = transnext_train(
        *("--recipe", "imagenet_224", "--data", str(tmp_path), "--output", str(tmp_path / "run"))
    )
    assert result.exit_code == 1
    assert "differ in their classes, first of all ['cat', 'dog']" in result.stderr.replace("\n", "")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The package too is another one after an import of its own, and is put back.
    monkeypatch.setattr(transnext_models, "training", transnext_models.training)
    for name in [name for name in sys.modules if name.startswith("transnext_models.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    result = transnext_train("--recipe", "digits", "--output", str(tmp_path / "run"))
    assert result.exit_code == 1
    assert "needs the package lightning: pip install 'transnext-vision[train]'" in result.stderr


@pytest.mark.parametrize("every", [None, 1])
def test_diverged_loss_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int | None
) -> None:
    step = ClassifierModule.training_step
    monkeypatch.setattr(
        ClassifierModule, "training_step", lambda *arguments: step(*arguments) * float("nan")
    )
    with pytest.raises(RuntimeError, match=r"the loss of epoch 0, step 1 .* is nan: lower --lr"):
        train(digits(tmp_path, checkpoint_every_steps=every))
    # Weights that are lost are not saved over good ones.
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()
