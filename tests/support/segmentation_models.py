"""Segmentation models for tests: of published sizes, and small ones."""

from __future__ import annotations

import torch

from small_model import small_model
from transnext_models import create_model
from transnext_models.segmentation import Mask2Former, SegmentationModel, UPerNet

METHODS = {"upernet": UPerNet, "mask2former": Mask2Former}


def published_model(method: str, size: str) -> SegmentationModel:
    """Return a model of published size, with random weights."""
    backbone = create_model(f"transnext_{size}", features_only=True, img_size=512)
    return METHODS[method](backbone)


def small_segmentor(method: str, num_classes: int = 5, seed: int = 0) -> SegmentationModel:
    """Return a model on a small backbone with scores spread, in evaluation and float64."""
    torch.manual_seed(seed)
    backbone = small_model(features_only=True, img_size=64)
    if method == "upernet":
        model: SegmentationModel = UPerNet(backbone, num_classes)
        with torch.no_grad():
            model.decode_head.conv_seg.weight.mul_(100)
    else:
        model = Mask2Former(backbone, num_classes, num_queries=7)
        with torch.no_grad():
            model.decode_head.cls_embed.weight.mul_(4)
    return model.double().eval()
