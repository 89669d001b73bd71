"""A backbone's four feature maps, at any image size, for a detection or segmentation head.

Run: ``python examples/backbone_features.py [MODEL]`` (no download: random weights unless the
package ships them; add ``pretrained=True`` for the published ones).
"""

import sys

import torch

from transnext_models import create_model


def main(name: str = "transnext_pico") -> None:
    """Print the shape and stride of each feature map."""
    # img_size is the size that the position bias was trained at; inputs may have any other.
    backbone = create_model(name, features_only=True, img_size=224).eval()
    backbone.freeze()  # the weights stay: evaluation need not look for changes
    images = torch.randn(1, 3, 320, 480)
    with torch.inference_mode():
        maps = backbone(images)
    info = backbone.feature_info
    for features, channels, stride in zip(maps, info.channels(), info.reduction(), strict=True):
        print(f"stride {stride:2}: {channels} channels, {tuple(features.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
