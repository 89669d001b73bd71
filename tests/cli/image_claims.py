"""What the tests of memory and of claims share."""

from __future__ import annotations

import pytest

from transnext_models.classification.preprocess import Preprocess
from transnext_models.images import (
    ImageError,
    read_image,
)

PREPROCESS = Preprocess(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "squash", 1.0)


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as error:
        read_image(data)
    return error.value.reason
