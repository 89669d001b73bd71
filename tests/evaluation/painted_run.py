"""Evaluate the painted classifier: a program, to be started several times or killed.

python tests/evaluation/painted_run.py OPTIONS, a JSON object of `EvaluationOptions`' fields, and
`seconds`, which each batch takes besides.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.made_up_sets import PaintedClassifier, painted_model
from transnext_models.evaluation.options import EvaluationOptions
from transnext_models.evaluation.run import Watcher, evaluate

_PATHS = ("output", "imagenet", "a", "r", "sketch", "v2", "c", "folder", "save_predictions")


class Slow(PaintedClassifier):
    """Noisy logits, so that losses are numbers with many digits; and slow ones."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.noise = torch.randn(1000, generator=torch.Generator().manual_seed(0)) / 10

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().forward(images) + self.noise * images.mean(dim=(1, 2, 3))[:, None]


class Telling(Watcher):
    def finished(self, row: Any, speed: Any) -> None:
        print(row["set"], flush=True)


def main() -> None:
    torch.set_num_threads(1)
    given: dict[str, Any] = json.loads(sys.argv[1])
    seconds = given.pop("seconds", 0.0)
    given |= {name: Path(given[name]) for name in _PATHS if name in given}
    options = EvaluationOptions(**given, allow_incomplete=True, device="cpu", workers=0)
    outcome = evaluate(options, Telling(), painted_model(Slow(seconds)))
    assert not outcome.failures, outcome.failures


if __name__ == "__main__":
    main()
