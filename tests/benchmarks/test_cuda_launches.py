"""Eager, captured and compiled calls, on the CPU: everything but graphs and their times."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cuda import launches
from benchmarks.cuda.launches import Setting, main, measure, ways_forward, ways_to_train

SETTING = Setting(torch.device("cpu"), "transnext_micro", batch=1, side=64, dtype="bfloat16")


@pytest.fixture
def modes(monkeypatch) -> list[str]:
    """The modes that are compiled with; what would be compiled is called as it is."""
    found: list[str] = []

    def compile_nothing(model, *, mode):
        found.append(mode)
        return model

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return found


def test_every_way_is_timed(modes):
    found = dict(measure(SETTING, runs=1))
    assert list(found) == ["forward", "both"]
    for seconds in found.values():
        assert list(seconds) == ["eager", "capture", "compile"]
        assert min(seconds.values()) > 0
    assert modes == ["reduce-overhead"] * 2


def test_steps_train_models_of_their_own(modes, monkeypatch):
    optimizers = []
    adamw = torch.optim.AdamW

    def kept(*arguments, **named):
        optimizers.append(adamw(*arguments, **named))
        return optimizers[-1]

    monkeypatch.setattr(torch.optim, "AdamW", kept)
    ways = ways_to_train(SETTING)

    def weights():
        return [each.param_groups[0]["params"][0].detach().clone() for each in optimizers]

    before = weights()
    assert all(torch.equal(one, before[0]) for one in before)
    for way in ways.values():
        last = weights()
        way()
        moved = [not torch.equal(*pair) for pair in zip(last, weights(), strict=True)]
        assert sum(moved) == 1


def test_other_logits_are_an_error(modes, monkeypatch):
    monkeypatch.setattr(launches, "capture", lambda model: lambda x: model(x) * 1.1)
    with pytest.raises(ArithmeticError, match=r"capture: its logits are off by 1\.0e-01"):
        ways_forward(SETTING)


def test_the_command(capsys):
    sizes = ["--variant", "transnext_micro", "--batch", "1", "--side", "64", "--dtype", "float32"]
    main(["--device", "cpu", *sizes, "--runs", "1", "--no-compile"])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "cpu: transnext_micro 64x64, batch 1, float32"
    assert [line.split("  ")[0] for line in lines] == ["forward"] * 2 + ["training step"] * 2
    assert lines[0].endswith("ms   1.00")


def test_no_card_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device: got 'cuda', but torch sees no CUDA device"):
        main(["--device", "cuda"])
    with pytest.raises(SystemExit, match="--device: got 'card', needs a torch device"):
        main(["--device", "card"])
