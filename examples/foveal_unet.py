"""A small U-Net with TransNeXt's blocks at its bottom: python examples/foveal_unet.py"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext_models.layers import OnMaps


def convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    """3×3, GroupNorm, GELU."""
    layer = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.GroupNorm(8, out), nn.GELU())


class FovealUNet(nn.Module):
    """Maps of any size in; logits of that size out."""

    def __init__(self, classes: int, width: int = 48, image_size: int = 64) -> None:
        super().__init__()
        half, quarter = (image_size // 2,) * 2, (image_size // 4,) * 2
        self.stem, self.out = convolution(3, width), nn.Conv2d(width, classes, 1)
        self.down = nn.ModuleList(convolution(width << i, width << i + 1, 2) for i in range(2))
        self.up = nn.ModuleList(convolution(3 * width << i, width << i) for i in range(2))
        self.middle = OnMaps.block(2 * width, 4, half, sr_ratio=8)  # window and pooled image
        self.bottom = OnMaps.block(4 * width, 8, quarter, sr_ratio=4)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, classes, H, W]``."""
        first = self.stem(x)
        second = self.middle(self.down[0](first))
        x = self.bottom(self.down[1](second))
        for layer, skip in ((self.up[1], second), (self.up[0], first)):
            x = layer(torch.cat((F.interpolate(x, skip.shape[2:], mode="bilinear"), skip), dim=1))
        return self.out(x)


if __name__ == "__main__":
    model = FovealUNet(classes=5)
    print([tuple(model(torch.randn(1, 3, *size)).shape) for size in ((64, 64), (75, 90))])
