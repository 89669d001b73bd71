"""Mean IoU: of perfect answers, and of wrong ones counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transnext_models.dense_evaluation.gathering import each_image_once
from transnext_models.dense_evaluation.mean_iou import count_pixels, mean_iou


def label_map(seed: int, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (20, 30)).astype(np.uint8)


def test_perfect_answers() -> None:
    counts = [count_pixels(seed, label_map(seed), label_map(seed), 5) for seed in range(4)]
    score = mean_iou(counts)
    assert (score.miou, score.macc, score.aacc) == (1, 1, 1)


def test_counted_by_hand() -> None:
    labels = np.array([[0, 0, 0, 0], [1, 1, 255, 255]])
    prediction = np.array([[0, 0, 0, 1], [1, 2, 2, 0]])
    score = mean_iou([count_pixels("a", prediction, labels, 4)])
    # 0: 3 of 3 + 1; 1: 1 of 2 + 1; 2: none of its 1; 3 neither occurs nor is predicted.
    assert score.per_class_iou[:3] == (3 / 4, 1 / 3, 0)
    assert math.isnan(score.per_class_iou[3])
    assert score.miou == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)
    assert score.per_class_accuracy[:2] == (3 / 4, 1 / 2)
    assert score.macc == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert score.aacc == pytest.approx(4 / 6)


def test_pixels_are_summed_over_the_set_before_they_are_divided() -> None:
    zeros, ones = np.zeros((1, 3), int), np.ones((1, 1), int)
    counts = [count_pixels(0, zeros, zeros, 2), count_pixels(1, 1 - ones, ones, 2)]
    assert mean_iou(counts).per_class_iou == (3 / 4, 0)


def test_beside_a_plain_loop() -> None:
    prediction, labels = label_map(1), label_map(2)
    labels[:5] = 255
    score = mean_iou([count_pixels(0, prediction, labels, 5)])
    expected = []
    for number in range(5):
        both = either = 0
        for guess, true in zip(prediction.reshape(-1), labels.reshape(-1), strict=True):
            if true != 255:
                both += guess == true == number
                either += number in (guess, true)
        expected.append(both / either)
    assert score.per_class_iou == pytest.approx(expected)


def test_an_image_of_two_processes_counts_once() -> None:
    counts = [count_pixels(seed, label_map(seed), label_map(seed + 9), 5) for seed in range(4)]
    gathered = each_image_once([counts[:3], counts[2:]], range(4))
    assert mean_iou(gathered) == mean_iou(counts)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"prediction: got \(2, 2\) for image a, needs \(2, 3\)"):
        count_pixels("a", np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    with pytest.raises(ValueError, match="labels: got class 7 for image a, needs 0…1"):
        count_pixels("a", np.zeros((2, 2), int), np.full((2, 2), 7), 2)
    with pytest.raises(ValueError, match="counts: got none"):
        mean_iou([])
