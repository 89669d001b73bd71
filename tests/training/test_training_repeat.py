"""A configuration repeats its run exactly, with the recipe that is written there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from training import short_runs
from training.short_runs import assert_same_end, digits, finetuned
from training.test_training_run import transnext_train
from transnext_models.training.recipes import get_recipe
from transnext_models.training.run import train

FINETUNE = get_recipe("finetune")


# -- the same run again ---------------------------------------------------------------------------


def test_a_configuration_repeats_a_run_exactly(images: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(finetuned(first, images, layer_decay=0.7, freeze="1", ema_decay=0.9, seed=3, epochs=2))
    result = transnext_train(
        "--config", str(first / "config.json"), "--output", str(tmp_path / "b")
    )
    assert result.exit_code == 0, result.output
    assert "another run" not in result.stderr
    assert_same_end(first, tmp_path / "b")


def test_what_is_given_now_is_another_run_and_said(images: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(finetuned(first, images))
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
