"""A run that goes on keeps its options, in whatever folder it is."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from training.resumed_runs import snapshot
from training.short_runs import (
    StopAfter,
    assert_same_end,
    digits,
    resumed,
)
from training.test_training_run import transnext_train
from transnext_models.training.run import RunOptions, RunStopped, train

# -- places and options ---------------------------------------------------------------------------


def test_a_run_moves_to_another_folder(options: RunOptions, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(9)])
    before = snapshot(options.output)
    moved = tmp_path / "moved"
    train(resumed(options, output=moved))
    assert snapshot(options.output) == before
    assert_same_end(whole, moved)
    with pytest.raises(ValueError, match="already holds a run, another one than --resume"):
        train(resumed(options, output=moved))


def test_weights_to_start_from_are_not_needed_again(
    options: RunOptions, whole: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "start.safetensors"
    shutil.copy(whole / "model.safetensors", weights)
    tuned = dataclasses.replace(options, weights=str(weights))
    with pytest.raises(RunStopped):
        train(tuned, [StopAfter(5)])
    weights.unlink()
    train(resumed(tuned))
    assert (options.output / "result.json").exists()


def test_the_command_keeps_the_options_of_the_run(options: RunOptions, whole: Path) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(6)])
    result = transnext_train("--resume", str(options.output))
    assert result.exit_code == 0, result.output
    assert_same_end(whole, options.output)


def test_options_given_anew_hold(options: RunOptions) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(6)])
    result = transnext_train("--resume", str(options.output), "--epochs", "5")
    assert result.exit_code == 1
    assert "epochs was 3 and is 5" in result.stderr
    result = transnext_train("--resume", str(options.output), "--no-float16", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert not (options.output / "model_float16.safetensors").exists()


@pytest.mark.parametrize("how", ["missing", "torn"])
def test_a_lost_configuration_is_found_in_the_checkpoint(
    options: RunOptions, whole: Path, how: str
) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(6)])
    config = options.output / "config.json"
    content = config.read_bytes()
    config.unlink()
    if how == "torn":
        config.write_bytes(content[:50])
    result = transnext_train("--resume", str(options.output))
    assert result.exit_code == 0, result.output
    assert config.read_bytes() == content
    assert_same_end(whole, options.output)


def test_a_recipe_is_needed_where_no_run_names_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for option, folder in (("--output", "run"), ("--resume", "empty")):
        result = transnext_train(option, str(tmp_path / folder))
        assert result.exit_code == 2
        assert "--recipe" in result.stderr


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["Bert"]}')
    with pytest.raises(ValueError, match=r"config\.json: not the configuration of a run"):
        train(digits(tmp_path))
    assert list(tmp_path.iterdir()) == [config]


def test_options_are_kept_so_that_they_mean_the_same_elsewhere(
    options: RunOptions, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    with pytest.raises(RunStopped):
        train(dataclasses.replace(options, data=images.name), [StopAfter(1)])
    kept = json.loads((options.output / "config.json").read_text())["options"]
    assert kept["data"] == os.path.abspath(images)
