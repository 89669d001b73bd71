"""Losses of one's own: classes that count differently, images with several labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.short_runs import finetuned, write_images
from transnext_models.training import classification
from transnext_models.training.class_weights import class_weights
from transnext_models.training.loaders import TrainingData
from transnext_models.training.module import ClassifierModule
from transnext_models.training.recipes import get_recipe
from transnext_models.training.run import train

FINETUNE = get_recipe("finetune")


# -- weighted classes -----------------------------------------------------------------------------


class _Data(TrainingData):
    """Three classes with 1, 2 and 5 images."""

    def __init__(self, labels: list[int] | None = None) -> None:
        super().__init__(2, 0, 0)
        self.class_names = ["ant", "bee", "cat"]
        self._labels = labels

    def training_labels(self) -> list[int] | None:
        return self._labels


def test_balanced_weights_give_every_class_the_same_sum() -> None:
    labels = [0, 1, 1, 2, 2, 2, 2, 2]
    weights = class_weights("balanced", _Data(labels), 3)
    assert weights is not None
    assert weights.tolist() == pytest.approx([8 / 3, 8 / 6, 8 / 15])
    sums = torch.zeros(3).index_add(0, torch.tensor(labels), weights[labels])
    assert sums.tolist() == pytest.approx([8 / 3] * 3)


@pytest.mark.parametrize(
    ("text", "weights"),
    [("1,2,0.5", [1, 2, 0.5]), ("cat=3", [1, 1, 3]), ("ant=0, bee=2", [0, 2, 1])],
)
def test_weights_are_given_by_number_or_name(text: str, weights: list[float]) -> None:
    found = class_weights(text, _Data(), 3)
    assert found is not None
    assert found.tolist() == weights
    assert class_weights(None, _Data(), 3) is None


@pytest.mark.parametrize(
    ("text", "labels", "message"),
    [
        ("1,2", None, "needs 3 numbers, one for each class"),
        ("1,2,many", None, "needs numbers from 0 on, and 'many' is none"),
        ("1,2,-1", None, "needs numbers from 0 on, and '-1' is none"),
        ("1,2,nan", None, "needs numbers from 0 on, and 'nan' is none"),
        ("0,0,0", None, "needs a class that counts"),
        ("dog=2", None, "needs names of classes, and 'dog' is none"),
        ("balanced", None, "needs numbers: this data set tells no labels"),
        ("balanced", [0, 0, 2], "needs training images of every class, and bee has none"),
        ("", None, "needs 3 numbers"),
    ],
)
def test_weights_that_cannot_be_meant(text: str, labels: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=rf"--class-weights: got '{text}', {message}"):
        class_weights(text, _Data(labels), 3)


@pytest.mark.parametrize("soft", [False, True])
def test_a_weight_multiplies_the_loss_of_its_class(soft: bool) -> None:
    recipe = dataclasses.replace(FINETUNE, label_smoothing=0.0)
    model = torch.nn.Linear(4, 3)
    images = torch.randn(2, 4)
    labels = torch.tensor([0, 2])
    targets = torch.nn.functional.one_hot(labels, 3).float() if soft else labels
    plain, weighted = (
        ClassifierModule(model, recipe, 1, class_weights=weights)
        for weights in (None, torch.tensor([3.0, 7.0, 3.0]))
    )
    expected = plain.training_step((images, targets)) * (3 if soft else 1)
    # With hard labels torch divides by the sum of the weights.
    assert weighted.training_step((images, targets)).item() == pytest.approx(expected.item())


def test_a_run_on_unequal_classes_is_balanced(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    for path in list((tmp_path / "data" / "train" / "bee").iterdir())[3:]:
        path.unlink()
    seen = []

    class Watched:
        def on_train_start(self, loop: Any, module: ClassifierModule) -> None:
            seen.append(module.class_weights)

    train(finetuned(tmp_path / "run", tmp_path / "data", class_weights="balanced"), [Watched()])
    assert seen[0].tolist() == pytest.approx([15 / 18, 15 / 9, 15 / 18])


# -- images with several labels -------------------------------------------------------------------


def test_each_of_several_labels_is_learnt_by_itself() -> None:
    model = torch.nn.Linear(4, 3)
    images = torch.randn(2, 4)
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    module = ClassifierModule(model, FINETUNE, 1, several_labels=True)
    logits = model(images)
    chances = logits.sigmoid()
    expected = -(targets * chances.log() + (1 - targets) * (1 - chances).log()).mean()
    assert module.training_step((images, targets)).item() == pytest.approx(expected.item())
    loss, top1, top5, count = module.measure(logits.detach(), targets).tolist()
    assert loss == pytest.approx(2 * expected.item(), rel=1e-5)
    best = int(logits[0].argmax())
    assert (top1, top5, count) == (float(best != 1), 1.0, 2.0)


class _Labels:
    """Four images with labels of three classes."""

    has_several_labels = True
    class_names = ("ant", "bee", "cat")

    def __init__(self, labels: list[list[int]] | None) -> None:
        self.train_set = self
        self.labels = None if labels is None else np.array(labels, np.uint8)


def _answering(weights: torch.Tensor | None) -> ClassifierModule:
    """What trains a model whose logits are its images."""
    model = torch.nn.Linear(1, 1)
    module = ClassifierModule(model, FINETUNE, 1, class_weights=weights, several_labels=True)
    module.network = lambda images: images
    return module


def test_balanced_labels_weigh_those_who_have_them_as_those_who_have_not() -> None:
    labels = [[1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 0]]
    weights = class_weights("balanced", _Labels(labels), 3)  # type: ignore[arg-type]
    assert weights is not None
    assert weights.tolist() == pytest.approx([3, 1, 1 / 3])
    # Of a model that knows nothing, both sides of every class pull with the same force.
    logits = torch.zeros(4, 3, requires_grad=True)
    _answering(weights).training_step((logits, torch.tensor(labels).float())).backward()
    assert logits.grad is not None
    assert logits.grad.sum(dim=0).tolist() == pytest.approx([0, 0, 0], abs=1e-7)


def test_a_weight_of_several_labels_is_of_those_who_have_it() -> None:
    images, targets = torch.randn(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    weights = class_weights("cat=3", _Labels([[1, 1, 1]]), 3)  # type: ignore[arg-type]
    each = torch.nn.functional.binary_cross_entropy_with_logits(images, targets, reduction="none")
    each[0, 2] *= 3
    loss = _answering(weights).training_step((images, targets))
    assert loss.item() == pytest.approx(each.mean().item())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, 0, 1], [0, 0, 1]], "training images of every class, and bee has none"),
        ([[1, 0, 1], [0, 1, 1]], "training images without each class, and all are of cat"),
        ([[1, 0], [0, 1]], "this data set tells no labels"),
        (None, "this data set tells no labels"),
    ],
)
def test_labels_that_cannot_be_balanced(labels: list[list[int]] | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"--class-weights: got 'balanced', needs .*{message}"):
        class_weights("balanced", _Labels(labels), 3)  # type: ignore[arg-type]


def test_a_run_on_several_labels(
    options: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every image is of its own class and of the next."""
    data_of = classification.build_data

    def several(*arguments: Any) -> TrainingData:
        data = data_of(*arguments)
        data.has_several_labels = True
        for name in ("training_batch", "validation_batch"):
            finish = getattr(data, name)

            def both(loaded: Any, finish: Any = finish) -> Any:
                images, labels = finish(loaded)
                one_hot = torch.nn.functional.one_hot(labels, 3).float()
                return images, (one_hot + one_hot.roll(1, dims=1)).clamp(max=1)

            setattr(data, name, both)
        return data

    monkeypatch.setattr(classification, "build_data", several)
    options = finetuned(tmp_path / "several", Path(options.data), epochs=2, report=True)
    result = train(options)
    assert 0 < result.metrics["train_loss"] < 2
    assert result.metrics["val_top1"] <= result.metrics["val_top5"] <= 1
    assert (options.output / "report.html").exists()
