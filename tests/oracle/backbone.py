"""TransNeXt in the registries of MMDetection and MMSegmentation: tests/oracle/backbone.py.

A configuration of theirs builds it by name, with the keys that published configurations inherit
from a ResNet; it takes all weights of ours and gives the same maps.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from dense_golden import fill, photo
from oracle.openmmlab import built, difference, report, stand_in_for_compiled_operators

stand_in_for_compiled_operators()

import mmdet.models  # noqa: E402, F401
import mmseg.models  # noqa: E402, F401
from mmdet.registry import MODELS as DETECTION  # noqa: E402
from mmengine.utils import import_modules_from_strings  # noqa: E402
from mmseg.registry import MODELS as SEGMENTATION  # noqa: E402

from transnext_models import create_model  # noqa: E402

import_modules_from_strings(["transnext_models.openmmlab"])  # what custom_imports does

INHERITED: dict[str, Any] = {
    "depth": 50, "frozen_stages": 1, "norm_cfg": {"type": "BN"}, "norm_eval": True,
    "init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet50"},
    "out_indices": (0, 1, 2, 3), "style": "pytorch",
}  # fmt: skip


@torch.no_grad()
def main() -> int:
    """Build it by both, initialise it and compare maps; return the exit code."""
    fine = True
    with torch.device("meta"):
        ours = create_model("maskrcnn_transnext_tiny").backbone
    fill(ours)
    ours.eval()
    config = {"type": "transnext_tiny", "img_size": 800, "pretrain_size": 224, **INHERITED}
    for registry, scope in ((DETECTION, "mmdet"), (SEGMENTATION, "mmseg")):
        theirs = built(registry, scope, config, ours)
        theirs.init_weights()
        pairs = zip(theirs(photo()), ours(photo()), strict=True)
        worst = max(difference(found, expected) for found, expected in pairs)
        fine &= report(f"backbone built by {scope}", worst, 1e-6)
        assert all(parameter.requires_grad for parameter in theirs.parameters())
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
