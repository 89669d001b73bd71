"""The shipped digit model is as good as the README and docs/demonstrator.md say.

`pytest -rP tests/training/test_training_demonstrator.py` prints the numbers measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from training import photographed_digits
from transnext_models import TransNeXt, create_model
from transnext_models.checkpoints.hub import resolve_weights
from transnext_models.classification.preprocess import Preprocess
from transnext_models.training.digit_data import held_out_views
from transnext_models.training.digits import held_out_digits
from transnext_models.variants import VARIANTS

PICO = VARIANTS["transnext_pico"]
PREPROCESS = Preprocess.of(PICO.default)


@pytest.fixture(scope="module")
def model() -> TransNeXt:
    return create_model("transnext_pico", pretrained=True).eval()


def _accuracy(model: TransNeXt, images: torch.Tensor, labels: NDArray[np.int64]) -> float:
    with torch.inference_mode():
        answers = torch.cat([model(part).argmax(dim=1) for part in images.split(100)])
    return float((answers.numpy() == labels).mean())


def _accuracy_of_pictures(
    model: TransNeXt, pictures: Sequence[Image.Image], labels: NDArray[np.int64]
) -> float:
    return _accuracy(model, torch.stack([PREPROCESS(picture) for picture in pictures]), labels)


def test_weights_are_small_and_half_precision() -> None:
    file = Path(resolve_weights("transnext_pico"))
    assert file.stat().st_size <= 3_000_000
    with safe_open(file, framework="pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors) == PICO.parameters <= 1_000_000


def test_held_out_accuracy_in_both_polarities(model: TransNeXt) -> None:
    held_out = held_out_digits()
    images, _ = held_out_views(held_out, PREPROCESS)
    light, dark = (_accuracy(model, part, held_out.labels) for part in images.split(len(held_out)))
    print(f"held out, light on dark: {light:.1%}; dark on light: {dark:.1%}")
    assert light >= 0.985
    assert dark >= 0.985


def test_photographs_of_held_out_digits(model: TransNeXt) -> None:
    digits = held_out_digits()
    digits = digits.subset(np.arange(0, len(digits), 4))
    accuracy = _accuracy_of_pictures(
        model, photographed_digits.pasted(digits, seed=11), digits.labels
    )
    print(f"held-out digits photographed on paper: {accuracy:.1%}")
    assert accuracy >= 0.95


def test_photographs_of_drawn_digits(model: TransNeXt) -> None:
    pictures, labels = photographed_digits.drawn(per_digit=20, seed=12)
    accuracy = _accuracy_of_pictures(model, pictures, labels)
    print(f"digits drawn with a pen, photographed: {accuracy:.1%}")
    assert accuracy >= 0.92  # ones with a long upstroke are read as sevens: docs/demonstrator.md
