"""The report at the end of a run: right numbers, one page, and no reason to lose a run."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image
from torch import Tensor, nn

from training.short_runs import StopAfter, finetuned, metrics, resumed
from training.test_training_run import transnext_train
from transnext_models.classification.preprocess import Preprocess
from transnext_models.training import classification
from transnext_models.training.figures import confusion_picture, curves_picture, image_picture
from transnext_models.training.label_mistakes import ClassMeasures, find_label_mistakes
from transnext_models.training.loaders import Batch, TrainingData
from transnext_models.training.mistakes import WORST, Mistakes, find_mistakes
from transnext_models.training.report import render_report
from transnext_models.training.run import RunOptions, RunStopped, train

PREPROCESS = Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class _Logits(nn.Module):
    """Answers with what is in the first pixels of an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :3]


class _Data(TrainingData):
    """Images that say their own logits; number 5 cannot be read."""

    def __init__(self, logits: Tensor, labels: Tensor, unreadable: int | None = None) -> None:
        super().__init__(4, 0, 0)
        pictures = torch.zeros(len(logits), 3, 4, 4)
        pictures[:, 0, 0, :3] = logits
        self.val_set = torch.utils.data.TensorDataset(pictures, labels, torch.arange(len(labels)))
        self._unreadable = unreadable

    def validation_samples(self) -> Any:
        return self.val_set

    def validation_batch(self, loaded: Any) -> Batch:
        images, labels, numbers = loaded
        read = numbers != (-1 if self._unreadable is None else self._unreadable)
        return images[read], labels[read]

    def validation_name(self, index: int) -> str:
        return f"{index}.png"


def _mistakes(unreadable: int | None = None) -> tuple[Mistakes, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 3, generator=generator)
    labels = torch.randint(0, 3, (40,), generator=generator)
    data = _Data(logits, labels, unreadable)
    fabric = Fabric(accelerator="cpu", devices=1)
    return find_mistakes(_Logits(), data, fabric, 3), logits, labels


def test_confusion_and_worst_images_are_right() -> None:
    found, logits, labels = _mistakes()
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for label, answer in zip(labels.tolist(), logits.argmax(dim=1).tolist(), strict=True):
        expected[label, answer] += 1
    assert torch.equal(found.confusion, expected)
    assert found.images == 40
    assert found.accuracy == pytest.approx(float(expected.diagonal().sum()) / 40)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    order = losses.argsort(descending=True)[:WORST].tolist()
    assert [mistake.name for mistake in found.worst] == [f"{index}.png" for index in order]
    for mistake, index in zip(found.worst, order, strict=True):
        assert mistake.loss == pytest.approx(losses[index].item(), rel=1e-6)
        assert mistake.labels == (int(labels[index]),)
        assert mistake.answers == (int(logits[index].argmax()),)
        assert torch.equal(mistake.image[0, 0, :3], logits[index])
    wrong = expected.clone().fill_diagonal_(0)
    frequent = found.most_frequent(3)
    assert [number for _, _, number in frequent] == wrong.flatten().topk(3).values.tolist()
    assert all(wrong[label, answer] == number for label, answer, number in frequent)


def test_an_image_that_cannot_be_read_does_not_shift_names() -> None:
    found, logits, labels = _mistakes(unreadable=5)
    assert found.images == 39
    for mistake in found.worst:
        index = next(i for i in range(40) if torch.equal(mistake.image[0, 0, :3], logits[i]))
        assert mistake.labels == (int(labels[index]),)
        assert mistake.name in (f"{index}.png", "")
        assert (mistake.name == "") == (index // 6 == 0)  # validation takes batches of six


def test_classes_without_images_have_no_share() -> None:
    confusion = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 2]])
    assert Mistakes(confusion).of_classes() == [0.75, None, 1.0]
    assert Mistakes(confusion).most_frequent(5) == [(0, 1, 1)]
    assert Mistakes(torch.zeros(2, 2, dtype=torch.int64)).accuracy == 0


# -- several labels -------------------------------------------------------------------------------


def _label_data() -> tuple[_Data, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 3, generator=generator) - 0.5
    labels = torch.randint(0, 2, (40, 3), generator=generator).float()
    return _Data(logits, labels), logits, labels


def test_classes_and_worst_images_of_several_labels_are_right() -> None:
    """Against scikit-learn."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    data, logits, labels = _label_data()
    found = find_label_mistakes(_Logits(), data, Fabric(accelerator="cpu", devices=1), 3)
    assert found.images == 40
    averages = []
    for i, measured in enumerate(found.classes):
        has, answers = labels[:, i].numpy(), (logits[:, i] > 0).numpy()
        precision, recall, f1, _ = precision_recall_fscore_support(has, answers, average="binary")
        averages.append(average_precision_score(has, logits[:, i].numpy()))
        expected = (int(has.sum()), averages[-1], precision, recall, f1)
        assert dataclasses.astuple(measured) == pytest.approx(expected, abs=1e-6)
    assert found.mean_average_precision == pytest.approx(sum(averages) / 3)
    order = [i for i, _ in found.weakest(2)]
    assert order == sorted(range(3), key=lambda i: averages[i])[:2]

    losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    worst = losses.mean(dim=1).argsort(descending=True)[:WORST].tolist()
    assert [mistake.name for mistake in found.worst] == [f"{index}.png" for index in worst]
    for mistake, index in zip(found.worst, worst, strict=True):
        assert mistake.loss == pytest.approx(losses[index].mean().item(), rel=1e-6)
        assert mistake.labels == tuple(labels[index].nonzero().flatten().tolist())
        assert mistake.answers == tuple((logits[index] > 0).nonzero().flatten().tolist())


def test_classes_that_no_image_has_or_nobody_answers() -> None:
    logits = torch.tensor([[1.0, -1.0, -1.0], [2.0, -2.0, -1.0]])
    labels = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    fabric = Fabric(accelerator="cpu", devices=1)
    found = find_label_mistakes(_Logits(), _Data(logits, labels), fabric, 3)
    assert found.classes == [
        ClassMeasures(0, None, 0.0, None, 0.0),
        ClassMeasures(1, 1.0, None, 0.0, 0.0),
        ClassMeasures(0, None, None, None, None),
    ]
    assert found.mean_average_precision == 1.0
    assert found.mean_f1 == 0.0
    assert [i for i, _ in found.weakest(9)] == [1]


def test_a_run_on_several_labels_ends_with_a_report(images: Path, tmp_path: Path) -> None:
    """Every image is of its class, and every second one of a striped kind too."""
    rows = ["path,labels,split"]
    for path in sorted(images.rglob("*.*")):
        split, name, file = path.relative_to(images).parts
        rows.append(f"{path},{name}{';striped' if file[0] in '024' else ''},{split}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    options = finetuned(tmp_path / "run", table, class_weights="balanced", report=True)
    train(options)
    page = (options.output / "report.html").read_text()
    assert "6 validation images" in page
    assert "mean average precision of the exported best weights</th><td>" in page
    assert "Confusion" not in page
    for name in ("ant", "bee", "cat", "striped"):
        assert f"<tr><td>{name}</td>" in page
    assert re.search(r"<b>(ant|bee|cat)(, striped)?</b>, taken for [a-z, ]+, loss \d", page)


# -- the page -------------------------------------------------------------------------------------


def _page(classes: int, names: list[str] | None = None) -> str:
    generator = torch.Generator().manual_seed(1)
    mistakes = Mistakes(torch.randint(0, 9, (classes, classes), generator=generator))
    configuration = {
        "resolved": {"model": "transnext_<b>", "recipe": "digits"},
        "class_names": names,
    }
    rows = [
        {"epoch": 0, "lr": 1e-3, "train_loss": 2.0},
        {
            "epoch": 1,
            "lr": 1e-4,
            "train_loss": 1.0,
            "val_loss": 1.5,
            "val_top1": 0.5,
            "val_top5": 1,
        },
    ]
    return render_report(configuration, rows, {"epoch": 1, "val_top1": 0.5}, mistakes, PREPROCESS)


def test_what_others_have_named_is_text_on_the_page() -> None:
    page = _page(2, ["<script>alert(1)</script>", "$x_1$ & more"])
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "transnext_&lt;b&gt;" in page
    assert "$x_1$ &amp; more" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # it needs nothing else


def test_many_classes_are_cut_to_those_with_mistakes() -> None:
    page = _page(120)
    assert "The 40 classes with the most mistakes of 120." in page
    assert "class 7" in page
    assert page.count("<tr><td>") <= 40


def test_pictures_are_pictures() -> None:
    rows = [{"epoch": 0, "lr": 1.0, "train_loss": 1.0}]
    for text in (
        curves_picture(rows),
        confusion_picture(torch.eye(2, dtype=torch.int64), ["$", "b" * 99]),
    ):
        kind, _, data = text.partition(",")
        assert kind == "data:image/png;base64"
        assert min(Image.open(io.BytesIO(base64.b64decode(data))).size) > 100
    image = torch.zeros(3, 32, 48)
    image[0] = 1.0  # of a mean and a deviation of 0.5: full red, half green and blue
    data = image_picture(image, (0.5,) * 3, (0.5,) * 3).partition(",")[2]
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (192, 128)
    assert picture.getpixel((5, 5)) == (255, 128, 128)


# -- of a run -------------------------------------------------------------------------------------


def test_a_run_ends_with_a_report(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = transnext_train(
        *("--recipe", "finetune", "--data", str(images), "--model", "transnext_pico"),
        *("--epochs", "2", "--batch-size", "6", "--workers", "0", "--output", str(run)),
    )
    assert result.exit_code == 0, result.output
    page = (run / "report.html").read_text()
    assert "<h1>transnext_pico, recipe finetune</h1>" in page
    assert "6 validation images" in page
    assert re.search(r"<br>[^<]*(ant|bee|cat)/[01]\.(jpg|png)", page)
    # The exported best weights, evaluated once more, are as good as they were.
    best = max(float(row["val_top1"]) for row in metrics(run))
    assert page.count(f"<td>{best:.2%}") >= 1
    assert f"top-1 of the exported best weights</th><td>{best:.2%}</td>" in page
    # A finished run is left as it is; a report that was lost is written again.
    before = page
    (run / "report.html").unlink()
    assert transnext_train("--resume", str(run)).exit_code == 0
    assert (run / "report.html").read_text() == before


def test_a_report_that_fails_is_no_reason_to_lose_a_run(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no pictures today")

    monkeypatch.setattr(classification, "render_report", broken)
    train(dataclasses.replace(options, report=True))
    assert "report.html: not written: no pictures today" in capsys.readouterr().err
    assert not (options.output / "report.html").exists()
    assert (options.output / "result.json").exists()


def test_no_report_is_written_unless_asked_for_or_before_the_end(options: RunOptions) -> None:
    with pytest.raises(RunStopped):
        train(dataclasses.replace(options, report=True), [StopAfter(2)])
    assert not (options.output / "report.html").exists()
    train(resumed(options))
    assert not (options.output / "report.html").exists()
