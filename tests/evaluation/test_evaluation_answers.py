"""What answers come to: restriction, ties, calibration, and independence of any order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from transnext_models.evaluation.answers import Answers, answers_to, summarise


def test_restriction_takes_logits_away_and_keeps_the_names_of_classes() -> None:
    logits = torch.tensor([[9.0, 1.0, 3.0, 2.0, 8.0, -1.0, 0.0]])
    answers = answers_to([4], [3], logits, (1, 3, 5))
    assert answers.top.tolist() == [[3, 1, 5]]
    total = math.exp(1) + math.exp(2) + math.exp(-1)
    np.testing.assert_allclose(answers.probabilities[0, 0], math.exp(2) / total, rtol=1e-15)
    np.testing.assert_allclose(answers.losses, -math.log(math.exp(2) / total), rtol=1e-14)
    assert answers.images.tolist() == [4]


def test_negative_logits_beat_what_masking_by_zero_would_leave() -> None:
    logits = torch.full((1, 10), -5.0)
    logits[0, 7] = -3.0
    assert answers_to([0], [7], logits, (2, 7)).top[0].tolist() == [7, 2]


def test_of_equal_logits_the_lower_class_is_first() -> None:
    logits = torch.zeros(3, 1000)
    logits[1, 500:] = 1.0
    logits[2, [900, 20]] = 2.0
    answers = answers_to(range(3), [0, 0, 0], logits, None)
    assert answers.top.tolist() == [[0, 1, 2, 3, 4], [500, 501, 502, 503, 504], [20, 900, 0, 1, 2]]


def test_any_partition_gives_the_same_summary() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(131, 20, generator=generator)
    labels = torch.randint(20, (131,), generator=generator).tolist()
    whole = summarise(answers_to(range(131), labels, logits, None))
    for ranks in (2, 3, 7):
        parts = [
            answers_to(range(131)[rank::ranks], labels[rank::ranks], logits[rank::ranks], None)
            for rank in range(ranks)
        ]
        assert summarise(Answers.joined(parts[::-1])) == whole
    top1 = (logits.argmax(1) == torch.tensor(labels)).sum()
    top5 = (logits.topk(5).indices == torch.tensor(labels)[:, None]).any(1).sum()
    assert (whole.correct1, whole.correct5) == (int(top1), int(top5))
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(labels)).item()
    assert whole.loss == pytest.approx(loss, rel=1e-12)
    assert sum(hits for hits, _ in whole.per_class.values()) == whole.correct1


def test_an_image_twice_is_an_error() -> None:
    part = answers_to([3], [0], torch.zeros(1, 5), None)
    with pytest.raises(RuntimeError, match="twice"):
        Answers.joined([part, part])


def test_calibration_error_by_hand() -> None:
    """Two classes; confidences 0.9 (right, wrong, right) and 0.6 (wrong)."""

    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    logits = torch.tensor(
        [[logit(0.9), 0.0], [logit(0.9), 0.0], [logit(0.9), 0.0], [logit(0.6), 0.0]],
        dtype=torch.float64,
    )
    summary = summarise(answers_to(range(4), [0, 1, 0, 1], logits, None))
    # Bins: 0.9 lies in (13/15, 14/15], 0.6 = 9/15 at the edge of (8/15, 9/15].
    wanted = (abs(2 - 3 * 0.9) + abs(0 - 0.6)) / 4
    assert summary.calibration_error == pytest.approx(wanted, rel=1e-12)
    assert sum(count for count, _, _ in summary.bins) == 4


def test_fewer_than_five_classes() -> None:
    summary = summarise(answers_to([0], [2], torch.tensor([[3.0, 2.0, 1.0]]), None))
    assert (summary.correct1, summary.correct5) == (0, 1)


def test_images_without_a_right_answer_are_left_out() -> None:
    logits = torch.eye(4)
    answers = answers_to(range(4), [0, 1, 2, 3], logits, None)
    summary = summarise(answers, {0: [0, 3], 1: [], 2: [1]})
    assert (summary.images, summary.correct1) == (2, 1)
    assert summary.loss is None
    with pytest.raises(ValueError, match="none of the images"):
        summarise(answers, {})
