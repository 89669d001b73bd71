"""The mean corruption error (mCE) of ImageNet-C.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, arXiv 1903.12261, section 4.2; AlexNet's errors are those of the authors'
repository, hendrycks/robustness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .image_sets import CORRUPTIONS, SEVERITIES

__all__ = ["ALEXNET_ERRORS", "CorruptionErrors", "corruption_errors"]

ALEXNET_ERRORS: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's top-1 error of each corruption, the mean over its five severities."""


@dataclass(frozen=True)
class CorruptionErrors:
    """The errors of a model over all corruptions, each a share in 0..1 but for the normalised.

    Attributes
    ----------
    mce : float
        In percent, 100 for AlexNet.
    mean_error : float
        Mean top-1 error over corruptions and severities, not normalised.
    ce : dict[str, float]
        Corruption error of each corruption, in percent of AlexNet's.
    errors : dict[str, list[float]]
        Top-1 error of each corruption by severity.
    """

    mce: float
    mean_error: float
    ce: dict[str, float]
    errors: dict[str, list[float]]


def corruption_errors(errors: Mapping[tuple[str, int], float]) -> CorruptionErrors:
    """Return the mean corruption error and its parts.

    Parameters
    ----------
    errors : mapping of (corruption, severity) to float
        Top-1 error, in 0..1, for all 15 corruptions and 5 severities.

    Raises
    ------
    ValueError
        If one is missing.
    """
    wanted = [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
    missing = [pair for pair in wanted if pair not in errors]
    if missing:
        raise ValueError(f"errors: got {len(errors)}, needs those of {missing[0]} too")
    by_severity = {c: [errors[c, severity] for severity in SEVERITIES] for c in CORRUPTIONS}
    ce = {
        corruption: 100 * math.fsum(values) / (len(SEVERITIES) * ALEXNET_ERRORS[corruption])
        for corruption, values in by_severity.items()
    }
    return CorruptionErrors(
        mce=math.fsum(ce.values()) / len(ce),
        mean_error=math.fsum(errors[pair] for pair in wanted) / len(wanted),
        ce=ce,
        errors=by_severity,
    )
