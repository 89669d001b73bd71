"""Compare UPerNet with MMSegmentation's: tests/oracle/upernet.py; see CONTRIBUTING."""

from __future__ import annotations

import sys
from typing import Any

import torch

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

import mmseg.models  # noqa: E402, F401
from mmengine.structures import PixelData  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from oracle.mask2former import SIZE, labels_of_two  # noqa: E402
from transnext_models import create_model  # noqa: E402
from transnext_models.segmentation import UPerNet  # noqa: E402

CLASSES = 150


def configs(channels: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return MMSegmentation's two heads of the published settings."""
    common = {
        "num_classes": CLASSES, "dropout_ratio": 0.1, "align_corners": False,
        "norm_cfg": {"type": "BN", "requires_grad": True},
    }  # fmt: skip
    entropy = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    head = common | {
        "type": "UPerHead", "in_channels": channels, "in_index": [0, 1, 2, 3],
        "pool_scales": (1, 2, 3, 6), "channels": 512,
        "loss_decode": entropy | {"loss_weight": 1.0},
    }  # fmt: skip
    auxiliary = common | {
        "type": "FCNHead", "in_channels": channels[2], "in_index": 2, "channels": 256,
        "num_convs": 1, "concat_input": False, "loss_decode": entropy | {"loss_weight": 0.4},
    }  # fmt: skip
    return head, auxiliary


def main() -> int:
    """Compare logits and losses of Tiny; return the exit code."""
    with torch.device("meta"):
        ours: UPerNet = create_model("upernet_transnext_tiny")
    fill(ours)
    ours.eval()
    head, auxiliary = configs(ours.widths)
    theirs = built(MODELS, "mmseg", head, ours.decode_head)
    their_auxiliary = built(MODELS, "mmseg", auxiliary, ours.auxiliary_head)
    images, labels = two_images(photo(), SIZE), labels_of_two()
    fine = True
    with torch.no_grad():
        maps = ours.backbone(images)
        fine &= report("logits", difference(ours.decode_head(maps), theirs(maps)), 1e-5)
        found = ours.auxiliary_head(maps[2])
        fine &= report("auxiliary logits", difference(found, their_auxiliary(maps)), 1e-5)
        meta = {"img_shape": SIZE, "ori_shape": SIZE, "pad_shape": SIZE}
        samples = [
            SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=image[None])) for image in labels
        ]
        losses = ours.loss(images, labels)
        for name, module in (("decode", theirs), ("aux", their_auxiliary)):
            for key, expected in module.loss(maps, samples, None).items():
                found = losses[f"{name}.{key}"]
                fine &= report(f"{name}.{key}", relative(found, expected), 1e-5)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
