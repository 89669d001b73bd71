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
from training.short_runs import StopAfter, assert_same_end, digits, finetuned, metrics, resumed
from training.test_training_run import transnext_train
from transnext_models import create_model
from transnext_models.checkpoints import read_state_dict, read_weights
from transnext_models.training.freezing import freeze_parameters, resting_modules
from transnext_models.training.history import validations_without_gain
from transnext_models.training.module import ClassifierModule
from transnext_models.training.optimisation import parameter_groups
from transnext_models.training.recipes import get_recipe
from transnext_models.training.run import RunStopped, train

FINETUNE = get_recipe("finetune")


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
    result = train(finetuned(tmp_path, images, epochs=12, lr=1e-3, batch_size=6))
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
    result = train(finetuned(tmp_path, images, lr=1e-2, **changes))
    shipped = create_model("transnext_pico", pretrained=True).state_dict()
    for name, value in read_state_dict(result.last_weights).items():
        if name.startswith("head."):
            continue
        assert torch.equal(value, shipped[name].float()) != name.startswith(moving), name


def test_a_probe_that_was_stopped_goes_on_exactly(images: Path, tmp_path: Path) -> None:
    changes = {"linear_probe": True, "ema_decay": 0.5, "epochs": 2, "class_weights": "cat=3"}
    whole = finetuned(tmp_path / "whole", images, **changes)
    cut = finetuned(tmp_path / "cut", images, **changes)
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
        train(finetuned(tmp_path / "run", images, freeze="1", linear_probe=True))


# -- averaged weights -----------------------------------------------------------------------------


def test_weights_are_averaged_on_demand(images: Path, tmp_path: Path) -> None:
    plain = train(finetuned(tmp_path / "plain", images))
    still = train(finetuned(tmp_path / "still", images, ema_decay=1 - 1e-12))
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
