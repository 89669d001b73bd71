"""The options of a run are written once, and what the command prints of a run is printable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from transnext_models.cli import train as command
from transnext_models.training.options import RunOptions, check_options
from transnext_models.training.run import RunResult


def test_the_command_has_an_option_for_each_field() -> None:
    app = typer.Typer(add_completion=False)
    command.register(app)
    options = {parameter.name: parameter for parameter in typer.main.get_command(app).params}
    fields = {field.name: field for field in dataclasses.fields(RunOptions)}
    assert list(options) == [*fields, "debug"]
    hints = get_type_hints(RunOptions, include_extras=True)
    for name, field in fields.items():
        assert options[name].help == get_args(hints[name])[1]
        assert not options[name].required
        has_default = field.default is not dataclasses.MISSING
        assert options[name].default == (field.default if has_default else None)


def test_a_sharded_optimizer_is_not_captured(tmp_path: Path) -> None:
    options = RunOptions(recipe="digits", output=tmp_path, shard_optimizer=True, cuda_graphs=True)
    with pytest.raises(ValueError, match="--shard-optimizer: got it together with --cuda-graphs"):
        check_options(options)


def test_paths_cannot_command_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run\x1b[2J\nerror: none"
    result = RunResult(
        weights=folder / "model.safetensors",
        half_weights=folder / "model_float16.safetensors",
        last_weights=folder / "last.safetensors",
        last_checkpoint=folder / "last.ckpt",
        best={"epoch": 3, "val_top1": 0.75},
        metrics={"accuracy": 0.5},
        is_first_process=True,
    )
    trainer = SimpleNamespace(train=lambda options: result, RunStopped=KeyboardInterrupt)
    monkeypatch.setattr(command, "_load", lambda: trainer)
    app = typer.Typer()
    command.register(app)
    outcome = CliRunner().invoke(app, ["--recipe", "digits", "--output", str(folder)])
    assert outcome.exit_code == 0
    assert "\x1b" not in outcome.stdout
    assert len(outcome.stdout.splitlines()) == 4
    assert r"weights: " in outcome.stdout
    assert r"run\x1b[2J\nerror: none/model.safetensors (best: 0.7500 in epoch 3)" in outcome.stdout
