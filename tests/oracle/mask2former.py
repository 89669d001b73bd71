"""Compare Mask2Former with MMSegmentation's: tests/oracle/mask2former.py; see CONTRIBUTING."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from dense_golden import fill, photo
from oracle.openmmlab import (
    built,
    difference,
    relative,
    report,
    stand_in_for_compiled_operators,
    two_images,
)

stand_in_for_compiled_operators()

import mmdet.models  # noqa: E402, F401
import mmseg.models  # noqa: E402, F401
from mmengine.structures import PixelData  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from transnext_models import create_model  # noqa: E402
from transnext_models.segmentation import Mask2Former  # noqa: E402
from transnext_models.segmentation.mask_losses import mask_losses, segments_of  # noqa: E402

SIZE = (224, 320)
CLASSES = 150


def config(channels: list[int]) -> dict[str, Any]:
    """Return MMSegmentation's head of the published settings."""
    attention = {"embed_dims": 256, "num_heads": 8, "batch_first": True}
    plain = attention | {"attn_drop": 0.0, "proj_drop": 0.0}
    relu = {"type": "ReLU", "inplace": True}
    ffn = {"embed_dims": 256, "num_fcs": 2, "ffn_drop": 0.0, "act_cfg": relu}
    sine = {"num_feats": 128, "normalize": True}
    costs = [
        {"type": "mmdet.ClassificationCost", "weight": 2.0},
        {"type": "mmdet.CrossEntropyLossCost", "weight": 5.0, "use_sigmoid": True},
        {"type": "mmdet.DiceCost", "weight": 5.0, "pred_act": True, "eps": 1.0},
    ]
    entropy = {"type": "mmdet.CrossEntropyLoss", "reduction": "mean"}
    return {
        "type": "mmseg.Mask2FormerHead",
        "in_channels": channels, "strides": [4, 8, 16, 32],
        "feat_channels": 256, "out_channels": 256, "num_classes": CLASSES, "num_queries": 100,
        "num_transformer_feat_level": 3, "align_corners": False,
        "pixel_decoder": {
            "type": "mmdet.MSDeformAttnPixelDecoder", "num_outs": 3, "act_cfg": {"type": "ReLU"},
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "encoder": {
                "num_layers": 6,
                "layer_cfg": {
                    "self_attn_cfg": attention
                    | {"num_levels": 3, "num_points": 4, "im2col_step": 64, "dropout": 0.0},
                    "ffn_cfg": ffn | {"feedforward_channels": 1024},
                },
            },
            "positional_encoding": sine,
        },
        "enforce_decoder_input_project": False,
        "positional_encoding": sine,
        "transformer_decoder": {
            "return_intermediate": True, "num_layers": 9,
            "layer_cfg": {
                "self_attn_cfg": plain, "cross_attn_cfg": plain,
                "ffn_cfg": ffn | {"feedforward_channels": 2048, "add_identity": True},
            },
        },
        "loss_cls": entropy
        | {"use_sigmoid": False, "loss_weight": 2.0, "class_weight": [1.0] * CLASSES + [0.1]},
        "loss_mask": entropy | {"use_sigmoid": True, "loss_weight": 5.0},
        "loss_dice": {
            "type": "mmdet.DiceLoss", "use_sigmoid": True, "activate": True,
            "reduction": "mean", "naive_dice": True, "eps": 1.0, "loss_weight": 5.0,
        },
        "train_cfg": {
            "num_points": 12544, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75,
            "assigner": {"type": "mmdet.HungarianAssigner", "match_costs": costs},
            "sampler": {"type": "mmdet.MaskPseudoSampler"},
        },
    }  # fmt: skip


def labels_of_two() -> Tensor:
    """Return made-up labels: tiles of many classes, and one class in a corner of nothing."""
    rows, columns = torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")
    labels = torch.full((2, *SIZE), 255)
    labels[0] = (rows // 56 * 7 + columns // 64 * 3) % CLASSES
    labels[0, :8] = 255
    labels[1, 50:90, 20:200] = 3
    return labels


def main() -> int:
    """Compare predictions, scores and losses of Tiny; return the exit code."""
    with torch.device("meta"):
        ours: Mask2Former = create_model("mask2former_transnext_tiny")
    fill(ours)
    ours.eval()
    theirs = built(MODELS, "mmseg", config(ours.widths), ours.decode_head)
    images = two_images(photo(), SIZE)
    fine = True
    with torch.no_grad():
        maps = ours.backbone(images)
        samples = [SegDataSample(metainfo={"img_shape": SIZE}) for _ in range(2)]
        classes, masks = theirs(maps, samples)
        for i, found in enumerate(ours.decode_head(maps)):
            fine &= report(f"classes, prediction {i}", difference(found.classes, classes[i]), 1e-5)
            fine &= report(f"masks, prediction {i}", difference(found.masks, masks[i]), 1e-5)
        shapes = [{"img_shape": SIZE, "pad_shape": SIZE}] * 2
        fine &= report("scores", difference(ours(images), theirs.predict(maps, shapes, None)), 1e-5)

    labels = labels_of_two()
    for name in ("one class in the second image", "none"):
        for sample, image in zip(samples, labels, strict=True):
            sample.gt_sem_seg = PixelData(data=image[None])
        torch.manual_seed(7)
        expected = theirs.loss(maps, samples, None)
        torch.manual_seed(7)
        segments = [segments_of(image) for image in labels]
        worst = 0.0
        for i, prediction in enumerate(ours.decode_head(maps)):
            for key, value in mask_losses(prediction, segments).items():
                other = expected[key if i == 9 else f"d{i}.{key}"]
                worst = max(worst, relative(value.detach(), other.detach()))
        fine &= report(f"losses, {name}", worst, 2e-5)
        labels[1] = 255
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
