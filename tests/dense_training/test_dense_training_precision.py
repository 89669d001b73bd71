"""What the published runs did on GPUs: float16 by a constant scale, BatchNorms of all processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dense_training.short_dense_runs import TASKS, options
from requirements import needs
from training.short_runs import StopAfter, assert_same_end, resumed
from transnext_models.dense.published import find_dense_model
from transnext_models.dense_training import recipes
from transnext_models.training.checkpoint_files import read_checkpoint
from transnext_models.training.run import RunStopped, train

pytestmark = needs("torchvision", "lightning", "timm", "pycocotools")


@pytest.mark.slow
def test_float16_keeps_the_published_scale(
    tmp_path: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mask R-CNN Base's recipe: the scale is in the checkpoint, and a stopped run ends the same."""
    of_base = recipes.published(find_dense_model("maskrcnn_base"))
    monkeypatch.setitem(
        recipes._OF_NAMES,
        "finetune",
        lambda model: replace(recipes.finetune(model), loss_scale=of_base.loss_scale),
    )
    changes: dict[str, Any] = {"precision": of_base.precision, "epochs": 1, "limit_val_batches": 1}
    whole = options(tmp_path / "whole", sets["detect"], "detect", **changes)
    train(whole, task=TASKS["detect"])
    run = options(tmp_path / "run", sets["detect"], "detect", **changes)
    with pytest.raises(RunStopped):
        train(run, callbacks=[StopAfter(1)], task=TASKS["detect"])
    checkpoint = read_checkpoint(run.output / "checkpoints" / "last.ckpt")
    assert 512.0 in _numbers(checkpoint)
    train(resumed(run), task=TASKS["detect"])  # type: ignore[arg-type]
    assert_same_end(whole.output, run.output)


def _numbers(state: Any) -> list[float]:
    """Return the values under the name "scale"."""
    if not isinstance(state, dict):
        return []
    own = [state["scale"]] if isinstance(state.get("scale"), float) else []
    return own + [number for value in state.values() for number in _numbers(value)]


def test_batch_norms_of_several_gpus_are_synchronised(
    tmp_path: Path, sets: dict[str, Path]
) -> None:
    """And have the parameters that the optimiser has; on a CPU or one GPU they stay as they are."""
    task = TASKS["segment"]
    run = options(tmp_path / "run", sets["segment"], "segment")
    settings = task.settings(run, 2)
    data = task.data(run, settings)
    for processes, device in ((2, "cpu"), (1, "cuda"), (2, "cuda")):
        model = task.model(run, settings, data, None)
        before = {name: id(value) for name, value in model.named_parameters()}
        fabric: Any = SimpleNamespace(world_size=processes, device=torch.device(device))
        module = task.module(run, settings, data, model, fabric)
        norms = [x for x in model.modules() if isinstance(x, nn.modules.batchnorm._BatchNorm)]
        assert len(norms) > 5
        synchronised = [isinstance(norm, nn.SyncBatchNorm) for norm in norms]
        assert synchronised == [processes == 2 and device == "cuda"] * len(norms)
        assert {name: id(value) for name, value in model.named_parameters()} == before
        groups = module.optimizer.param_groups
        assert {id(x) for group in groups for x in group["params"]} == set(before.values())
