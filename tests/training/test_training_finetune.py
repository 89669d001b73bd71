"""Fine-tuning a folder of one's own: what is trained, how fast, what counts, and when it ends."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from training import short_runs
from training.short_runs import StopAfter, assert_same_end, digits, metrics, resumed, write_images
from training.test_training_run import transnext_train
from transnext_models import create_model
from transnext_models.checkpoints import read_state_dict, read_weights
from transnext_models.training.class_weights import class_weights
from transnext_models.training.freezing import freeze_parameters, resting_modules
from transnext_models.training.history import validations_without_gain
from transnext_models.training.loaders import TrainingData
from transnext_models.training.module import ClassifierModule
from transnext_models.training.optimisation import parameter_groups
from transnext_models.training.recipes import get_recipe
from transnext_models.training.run import RunStopped, train

FINETUNE = get_recipe("finetune")


def _tuned(folder: Path, images: Path, **changes: Any) -> Any:
    """One epoch of the recipe `finetune` from the digits model, at its own size."""
    options: dict[str, Any] = {"recipe": "finetune", "model": "transnext_pico", "epochs": 1}
    return short_runs.images(folder, images, **{**options, "batch_size": 6, **changes})


def _pico() -> torch.nn.Module:
    return create_model("transnext_pico", num_classes=3)


# -- the recipe -----------------------------------------------------------------------------------


def test_a_folder_is_all_that_it_needs(images: Path, tmp_path: Path) -> None:
    """Weights, image size and classes are those of the model and of the data."""
    run = tmp_path / "run"
    result = transnext_train(
        *("--recipe", "finetune", "--data", str(images), "--output", str(run)),
        *("--model", "transnext_pico", "--epochs", "2", "--batch-size", "6", "--workers", "0"),
    )
    assert result.exit_code == 0, result.output
    resolved = json.loads((run / "config.json").read_text())["resolved"]
    assert (resolved["num_classes"], resolved["img_size"], resolved["pretrain_size"]) == (3, 64, 64)
    exported = read_weights(run / "last.safetensors")
    assert json.loads(exported.metadata["class_names"]) == list(short_runs.CLASSES)
    shipped = create_model("transnext_pico", pretrained=True).state_dict()
    moved = {
        name: float((value - shipped[name]).abs().max())
        for name, value in exported.state_dict.items()
        if not name.startswith("head.")
    }
    assert max(moved.values()) < 1e-2  # it began with the shipped weights
    assert max(moved.values()) > 0


def test_it_learns_within_a_few_epochs(images: Path, tmp_path: Path) -> None:
    """Three colours of noise are told apart."""
    result = train(_tuned(tmp_path, images, epochs=12, lr=1e-3, batch_size=6))
    losses = [float(row["train_loss"]) for row in metrics(tmp_path)]
    assert losses[-1] < losses[0] - 0.2
    assert result.best is not None
    assert result.best["val_top1"] >= 0.9


# -- rates of layers ------------------------------------------------------------------------------


def test_rates_fall_from_the_classifier_to_the_first_layer() -> None:
    model = _pico()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    recipe = dataclasses.replace(FINETUNE, layer_decay=0.5)
    module = ClassifierModule(model, recipe, epochs=10)
    assert module.set_rate(5) == pytest.approx(
        1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi / 2)) / 2
    )
    rates = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in module.optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates.keys() == set(names.values())
    order = ["patch_embed1.proj.weight", "block1.0.mlp.fc1.weight", "block3.0.mlp.fc1.weight"]
    order += ["block3.1.mlp.fc1.weight", "block4.0.mlp.fc1.weight", "head.weight"]
    found = [rates[name][0] for name in order]
    assert found == sorted(found)
    assert len(set(found[1:])) == 5
    assert rates["block3.1.mlp.fc1.weight"][0] == pytest.approx(
        2 * rates["block3.0.mlp.fc1.weight"][0]
    )
    assert found[-1] == module.set_rate(5)
    # Decayed are the same parameters as without.
    spared, _ = parameter_groups(model, dataclasses.replace(recipe, layer_decay=None))
    assert {name for name, (_, decay) in rates.items() if decay == 0} == {
        names[id(parameter)] for parameter in spared["params"]
    }


def test_constant_rates_are_scaled_too() -> None:
    recipe = dataclasses.replace(get_recipe("imagenet_384_ft"), layer_decay=0.5)
    module = ClassifierModule(_pico(), recipe, epochs=5)
    assert module.set_rate(2) == 1e-5
    assert min(group["lr"] for group in module.optimizer.param_groups) < 1e-6


# -- frozen parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("1", {"patch_embed1", "block1", "norm1"}),
        ("2", {"patch_embed1", "block1", "norm1", "patch_embed2", "block2", "norm2"}),
        ("block3", {"block3"}),
        ("block1, norm*", {"block1", "norm1", "norm2", "norm3", "norm4"}),
    ],
)
def test_stages_and_names_are_frozen(freeze: str, frozen: set[str]) -> None:
    model = _pico()
    freeze_parameters(model, dataclasses.replace(FINETUNE, freeze=freeze))
    found = {name.partition(".")[0] for name, x in model.named_parameters() if not x.requires_grad}
    assert found == frozen
    trained = {name.partition(".")[0] for name, x in model.named_parameters() if x.requires_grad}
    assert not trained & frozen


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("5", "nothing in the model fits 'patch_embed5"),
        ("head,conv9", "nothing in the model fits 'conv9'"),
        ("*", "leaves nothing to train"),
        ("", "nothing in the model fits ''"),
    ],
)
def test_what_cannot_be_frozen_is_named(freeze: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"--freeze: got .*{message}"):
        freeze_parameters(_pico(), dataclasses.replace(FINETUNE, freeze=freeze))


def test_frozen_parts_drop_no_paths() -> None:
    model = _pico()
    recipe = dataclasses.replace(FINETUNE, freeze="2")
    freeze_parameters(model, recipe)
    module = ClassifierModule(model, recipe, epochs=1)
    module.train()
    for name, part in model.named_modules():
        first = name.partition(".")[0]
        if first.endswith(("1", "2")):
            assert not part.training, name
        elif first.endswith(("3", "4")) or first == "head":
            assert part.training, name
    assert resting_modules(create_model("transnext_pico")) == []


@pytest.mark.parametrize(
    ("changes", "moving"),
    [
        ({"linear_probe": True}, ()),
        ({"freeze": "3"}, ("patch_embed4.", "block4.", "norm4.")),
    ],
)
def test_only_what_is_not_frozen_moves(
    images: Path, tmp_path: Path, changes: dict[str, Any], moving: tuple[str, ...]
) -> None:
    result = train(_tuned(tmp_path, images, lr=1e-2, **changes))
    shipped = create_model("transnext_pico", pretrained=True).state_dict()
    for name, value in read_state_dict(result.last_weights).items():
        if name.startswith("head."):
            continue
        assert torch.equal(value, shipped[name].float()) != name.startswith(moving), name


def test_a_probe_that_was_stopped_goes_on_exactly(images: Path, tmp_path: Path) -> None:
    changes = {"linear_probe": True, "ema_decay": 0.5, "epochs": 2, "class_weights": "cat=3"}
    whole = _tuned(tmp_path / "whole", images, **changes)
    cut = _tuned(tmp_path / "cut", images, **changes)
    train(whole)
    with pytest.raises(RunStopped):
        train(cut, [StopAfter(4)])
    with pytest.raises(ValueError, match=r"the recipe's layer_decay was 0\.8 and is 0\.5"):
        train(resumed(cut, layer_decay=0.5))
    with pytest.raises(ValueError, match="recipe was 'finetune' and is 'digits'"):
        train(resumed(cut, recipe="digits", data=None, class_weights=None))
    train(resumed(cut))
    assert_same_end(whole.output, cut.output)


def test_freezing_twice_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--freeze: got '1' together with --linear-probe"):
        train(_tuned(tmp_path / "run", images, freeze="1", linear_probe=True))


# -- averaged weights -----------------------------------------------------------------------------


def test_weights_are_averaged_on_demand(images: Path, tmp_path: Path) -> None:
    plain = train(_tuned(tmp_path / "plain", images))
    still = train(_tuned(tmp_path / "still", images, ema_decay=1 - 1e-12))
    saved = torch.load(still.last_checkpoint, weights_only=True)
    assert saved["training"]["averages"] == 3
    # The average has stayed where the first step left it; the weights behind it have not.
    trained = saved["training"]["weights"]
    expected = read_state_dict(plain.last_weights)
    assert all(torch.equal(trained[f"model.{name}"], x) for name, x in expected.items())
    averaged = read_state_dict(still.last_weights)
    assert any(not torch.equal(averaged[name], x) for name, x in expected.items())
    off = train(digits(tmp_path / "off", ema_decay=0))
    assert "averages" not in torch.load(off.last_checkpoint, weights_only=True)["training"]


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
    step = ClassifierModule.training_step

    class Watched:
        def on_train_start(self, loop: Any, module: ClassifierModule) -> None:
            seen.append(module.class_weights)

    assert step
    train(_tuned(tmp_path / "run", tmp_path / "data", class_weights="balanced"), [Watched()])
    assert seen[0].tolist() == pytest.approx([15 / 18, 15 / 9, 15 / 18])


# -- early stop -----------------------------------------------------------------------------------


def test_validations_without_gain_are_counted() -> None:
    def rows(*values: float | None) -> list[dict[str, Any]]:
        return [{} if value is None else {"val_top1": value} for value in values]

    assert validations_without_gain([]) == 0
    assert validations_without_gain(rows(0.5)) == 0
    assert validations_without_gain(rows(0.5, None, 0.5, None)) == 1  # as good is not better
    assert validations_without_gain(rows(0.5, 0.4, 0.6, 0.1, 0.2)) == 2


def test_a_run_ends_early_and_stays_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = dataclasses.replace(get_recipe("digits"), validate_every=1)
    monkeypatch.setitem(short_runs.RECIPES, "digits", every)
    measure = ClassifierModule.measure

    def never_right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return measure(logits, labels) * torch.tensor([1.0, 0.0, 0.0, 1.0])

    monkeypatch.setattr(ClassifierModule, "measure", staticmethod(never_right))
    options = digits(tmp_path, epochs=9, early_stop=2)
    train(options)
    assert [row["epoch"] for row in metrics(tmp_path)] == ["0", "1", "2"]
    assert "early stop: 2 validations without a better one" in capsys.readouterr().err
    before = (tmp_path / "result.json").read_bytes()
    train(resumed(options))
    assert (tmp_path / "result.json").read_bytes() == before
    assert len(metrics(tmp_path)) == 3


# -- the same run again ---------------------------------------------------------------------------


def test_a_configuration_repeats_a_run_exactly(images: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(_tuned(first, images, layer_decay=0.7, freeze="1", ema_decay=0.9, seed=3, epochs=2))
    result = transnext_train(
        "--config", str(first / "config.json"), "--output", str(tmp_path / "b")
    )
    assert result.exit_code == 0, result.output
    assert "another run" not in result.stderr
    assert_same_end(first, tmp_path / "b")


def test_what_is_given_now_is_another_run_and_said(images: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(_tuned(first, images))
    arguments = ["--config", str(first / "config.json"), "--output", str(tmp_path / "b")]
    result = transnext_train(*arguments, "--seed", "1", "--layer-decay", "0.5")
    assert result.exit_code == 0, result.output
    said = result.stderr.replace("\n", " ")
    assert "another run: seed was 0 and is 1, the recipe's layer_decay was 0.8 and is 0.5" in said


def test_a_configuration_has_its_recipe_with_it(
    options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another version has another recipe of this name, or none."""
    train(options)
    other = dataclasses.replace(short_runs.SMALL, lr=0.5)
    monkeypatch.setitem(short_runs.RECIPES, short_runs.SMALL.name, other)
    config = options.output / "config.json"
    again = dataclasses.replace(options, output=tmp_path / "again", config=config)
    train(again)
    assert_same_end(options.output, tmp_path / "again")
    monkeypatch.delitem(short_runs.RECIPES, short_runs.SMALL.name)
    train(dataclasses.replace(again, output=tmp_path / "third"))
    assert_same_end(options.output, tmp_path / "third")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--config: got .*config.json, which does not exist"),
        ("{}", "config.json: not the configuration of a run"),
        (
            '{"resolved": {}, "options": {}, "recipe": {"name": "digits", "colour": 1}}',
            "recipe: the one in the configuration has 'colour'",
        ),
        (
            '{"resolved": {}, "options": {}, "recipe": {"name": "digits"}}',
            "recipe: the one in the configuration lacks 'data'",
        ),
    ],
)
def test_what_is_no_configuration_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    config = tmp_path / "config.json"
    if content is not None:
        config.write_text(content)
    with pytest.raises(ValueError, match=message):
        train(digits(tmp_path / "run", config=config))
    assert not (tmp_path / "run").exists()
