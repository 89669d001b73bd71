"""Both the best and the last weights are exported, with all that classification needs of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from training import short_runs
from training.short_runs import StopAfter, assert_same_end, digits, resumed
from transnext_models.checkpoints import class_names, read_state_dict, read_weights
from transnext_models.cli import application
from transnext_models.training.export import named_classes
from transnext_models.training.module import ClassifierModule
from transnext_models.training.run import RunOptions, RunStopped, train

EPOCHS = 4


class _Right:
    """Gives the validations made-up accuracies, in the order of the epochs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, right: list[float]) -> None:
        self.epoch = 0
        self.right = right
        self.measure = ClassifierModule.measure
        monkeypatch.setattr(ClassifierModule, "measure", staticmethod(self))

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sums = self.measure(logits, labels)
        sums[1] = self.right[self.epoch] * len(labels)
        return sums

    def on_train_epoch_start(self, loop: Any, *_: Any) -> None:
        self.epoch = loop.current_epoch


class _Kept:
    """Keeps the weights after each epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, loop: Any, *_: Any) -> None:
        state = loop.state.evaluated.state_dict()
        self.weights.append({name: value.clone() for name, value in state.items()})


@pytest.mark.parametrize(
    ("right", "best"),
    [([0.1, 0.7, 0.3, 0.2], 1), ([0.5, 0.5, 0.5, 0.1], 2), ([0.0] * 4, 3), ([0.9, 0, 0, 0], 0)],
)
def test_best_and_last_weights_are_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: list[float], best: int
) -> None:
    """Of several epochs that are equally good the last is the best, as published."""
    monkeypatch.setitem(short_runs.RECIPES, "digits", _every_epoch())
    kept = _Kept()
    result = train(digits(tmp_path, epochs=EPOCHS), [_Right(monkeypatch, right), kept])
    for path, epoch in ((result.weights, best), (result.last_weights, EPOCHS - 1)):
        read = read_weights(path)
        assert read.metadata["epoch"] == str(epoch)
        assert float(read.metadata["val_top1"]) == pytest.approx(right[epoch])
        expected = kept.weights[epoch]
        assert all(torch.equal(expected[name], x) for name, x in read.state_dict.items())
        half = read_state_dict(path.with_name(f"{path.stem}_float16.safetensors"))
        assert all(torch.equal(expected[name].half(), x) for name, x in half.items())
        assert (read.metadata["crop_mode"], read.metadata["crop_pct"]) == ("squash", "1.0")
    newest = read_weights(tmp_path / "checkpoints" / "last.ckpt")
    assert (newest.metadata["crop_mode"], newest.metadata["crop_pct"]) == ("squash", "1.0")
    assert result.best == {"epoch": best, "val_top1": pytest.approx(right[best])}
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["best_epoch"] == best
    assert written["val_top1"] == pytest.approx(right[-1])


def _every_epoch() -> Any:
    return dataclasses.replace(short_runs.RECIPES["digits"], validate_every=1)


def test_the_best_weights_are_found_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(short_runs.RECIPES, "digits", _every_epoch())
    right = [0.2, 0.8, 0.3, 0.1]
    whole, cut = digits(tmp_path / "whole", epochs=EPOCHS), digits(tmp_path / "cut", epochs=EPOCHS)
    train(whole, [_Right(monkeypatch, right)])
    with pytest.raises(RunStopped):
        train(cut, [_Right(monkeypatch, right), StopAfter(5)])
    again = _Right(monkeypatch, right)
    again.epoch = 2  # the run goes on in the middle of it
    train(resumed(cut), [again])
    assert_same_end(whole.output, cut.output)
    assert read_weights(cut.output / "model.safetensors").metadata["epoch"] == "1"


def test_a_best_checkpoint_that_is_not_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on from a checkpoint that was copied alone, or its best is damaged."""
    monkeypatch.setitem(short_runs.RECIPES, "digits", _every_epoch())
    right = [0.2, 0.8, 0.3, 0.1]
    whole = digits(tmp_path / "whole", epochs=EPOCHS)
    train(whole, [_Right(monkeypatch, right)])
    alone = tmp_path / "alone.ckpt"
    shutil.copy(whole.output / "checkpoints" / "previous.ckpt", alone)
    again = _Right(monkeypatch, right)
    train(dataclasses.replace(whole, output=tmp_path / "new", resume=alone), [again])
    assert read_weights(tmp_path / "new" / "model.safetensors").metadata["epoch"] == "3"

    (whole.output / "checkpoints" / "best.ckpt").write_bytes(b"PK\x03\x04 damaged")
    (whole.output / "model.safetensors").unlink()
    train(resumed(whole))
    assert "best.ckpt: damaged" in capsys.readouterr().err
    assert read_weights(whole.output / "model.safetensors").metadata["epoch"] == "3"


def test_classes_of_a_folder_are_printed_by_their_names(options: RunOptions, images: Path) -> None:
    train(options)
    for name in ("model.safetensors", "last_float16.safetensors", "checkpoints/last.ckpt"):
        weights = options.output / name
        assert class_names(read_weights(weights)) == list(short_runs.CLASSES)
        image = next((images / "val" / "bee").iterdir())
        arguments = ["classify", "--weights", str(weights), "--json", str(image)]
        result = CliRunner().invoke(application.app, arguments)
        assert result.exit_code == 0, result.output
        named = {each["label"] for each in _predictions(json.loads(result.stdout))}
        assert named == set(short_runs.CLASSES)


def _predictions(document: Any) -> list[dict[str, Any]]:
    """All predictions, wherever in the document they are."""
    if isinstance(document, dict):
        if "label" in document and "probability" in document:
            return [document]
        document = list(document.values())
    if isinstance(document, list):
        return [found for part in document for found in _predictions(part)]
    return []


def test_names_that_no_reader_would_believe_are_left_out() -> None:
    assert named_classes(["a", "ü"], 2) == {"class_names": json.dumps(["a", "ü"])}
    assert named_classes(None, 2) == {}
    assert named_classes(["a"], 2) == {}
    assert named_classes(["a", "b" * 1001], 2) == {}
