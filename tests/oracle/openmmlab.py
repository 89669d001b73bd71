"""OpenMMLab's heads with our weights, for comparison; see CONTRIBUTING, "The published heads"."""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

SIZE = (213, 320)
SMALL = (160, 250)


def stand_in_for_compiled_operators() -> None:
    """Give MMCV torchvision's operators; a plain installation of it comes without its own.

    Must be called before MMCV is imported.
    """
    module = types.ModuleType("mmcv._ext")

    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        assert offset == 0
        return torchvision.ops.nms(boxes, scores, iou_threshold)

    def roi_align_forward(
        x: Tensor, rois: Tensor, output: Tensor, *_: Tensor, pool_mode: int, **options: Any
    ) -> None:
        assert pool_mode == 1
        side = (options["aligned_height"], options["aligned_width"])
        scale, ratio = options["spatial_scale"], options["sampling_ratio"]
        aligned = options["aligned"]
        output.copy_(torchvision.ops.roi_align(x, rois, side, scale, ratio, aligned))

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(name)

        return call

    module.nms = nms  # type: ignore[attr-defined]
    module.roi_align_forward = roi_align_forward  # type: ignore[attr-defined]
    module.__getattr__ = missing  # type: ignore[method-assign]
    sys.modules["mmcv._ext"] = module


def built(registry: Any, scope: str, config: dict[str, Any], ours: nn.Module) -> Any:
    """Build a module of OpenMMLab with the weights of ours that it has."""
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    init_default_scope(scope)
    module = registry.build(ConfigDict(config))
    state = ours.state_dict()
    weights = {key: state[key] for key in module.state_dict()}
    module.load_state_dict(weights, strict=True)
    return module.eval()


def two_images(photo: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    """Return the photograph and a smaller, mirrored part of it, padded at right and bottom."""
    batch = torch.zeros(2, 3, *size)
    batch[:1, :, : SIZE[0], : SIZE[1]] = photo
    height, width = SMALL
    batch[1, :, :height, :width] = photo[0, :, 20 : 20 + height, 30 : 30 + width].flip(-1)
    return batch


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def relative(found: Any, expected: Any) -> float:
    """Return the difference of two numbers over the second."""
    found, expected = float(found), float(expected)
    return abs(found - expected) / max(abs(expected), 1e-3)


def register_no_backbone(registry: Any) -> None:
    """Register ``NoBackbone``, which returns the maps that it is given."""
    from mmengine.model import BaseModule

    class NoBackbone(BaseModule):
        def forward(self, x: Any) -> Any:
            return x

    registry.register_module(name="NoBackbone", module=NoBackbone)


def report(name: str, found: float, limit: float) -> bool:
    """Print a comparison; return whether it is within its limit."""
    print(f"{name:44s} {found:8.1e}   {'ok' if found <= limit else f'above {limit:.0e}'}")
    return found <= limit
