"""Small detectors for tests: the published structure on a small backbone, with narrow heads."""

from __future__ import annotations

from typing import Any

import torch

from small_model import small_model
from transnext_models.detection import DINO, MaskRCNN

MASK_RCNN_HEADS = {"channels": 16, "hidden": 32, "proposals": 50}
DINO_HEADS = {"channels": 32, "hidden": 64}  # 32: GroupNorm's groups


def small_mask_rcnn(**backbone_options: Any) -> MaskRCNN:
    """Return one of 3 classes that finds something, in float32 and evaluation."""
    torch.manual_seed(0)
    backbone = small_model(features_only=True, img_size=64, **backbone_options).float()
    model = MaskRCNN(backbone, 3, **MASK_RCNN_HEADS)
    with torch.no_grad():  # so that there is something to find
        model.roi_head.bbox_head.fc_cls.weight.mul_(30)
    return model.eval()


def small_dino(num_classes: int = 3, num_queries: int = 20, **backbone_options: Any) -> DINO:
    """Return one of 4 scales, in float32 and evaluation."""
    torch.manual_seed(0)
    options = {"features_only": True, "img_size": 64, "out_indices": (1, 2, 3)} | backbone_options
    backbone = small_model(**options).float()
    return DINO(backbone, num_classes, num_queries, **DINO_HEADS).eval()
