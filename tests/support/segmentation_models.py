"""Small segmentation models for tests."""

from __future__ import annotations

from typing import Any

import torch

from small_model import small_model
from transnext_models.segmentation import Mask2Former, SegmentationModel, UPerNet

METHODS = {"upernet": UPerNet, "mask2former": Mask2Former}
CHANNELS = 32  # GroupNorm's groups
UPERNET_HEADS = {"channels": CHANNELS, "auxiliary_channels": CHANNELS}
MASK2FORMER_HEADS = {"channels": CHANNELS}


def small_segmentor(
    method: str, num_classes: int = 5, seed: int = 0, **backbone_options: Any
) -> SegmentationModel:
    """Return a model on a small backbone with scores spread, in evaluation and float64."""
    torch.manual_seed(seed)
    backbone = small_model(features_only=True, img_size=64, **backbone_options)
    if method == "upernet":
        model: SegmentationModel = UPerNet(backbone, num_classes, **UPERNET_HEADS)
        with torch.no_grad():
            model.decode_head.conv_seg.weight.mul_(100)
    else:
        model = Mask2Former(backbone, num_classes, num_queries=7, **MASK2FORMER_HEADS)
        with torch.no_grad():
            model.decode_head.cls_embed.weight.mul_(4)
    return model.double().eval()
