"""Time detectors and segmentors beside the same heads on the published backbone.

    python -m benchmarks.dense                                    # all of Tiny, minutes
    python -m benchmarks.dense upernet_transnext_tiny --runs 3    # one, a look

Inference of one image on a CPU in float32: 800 x 1280 for detectors, 512 x 512 for segmentors, with
random weights and an image of noise. Both models have the same weights and heads, and their runs
are interleaved, so that what else the machine does slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.published.model import PublishedTransNeXt
from transnext_models import create_model
from transnext_models.dense.backbone import OnBackbone
from transnext_models.dense.published import METHODS, find_dense_model

__all__ = ["OnPublished", "measure", "published_twin"]

_SIZES = {"detect": (800, 1280), "segment": (512, 512)}
_ALL = [f"{method}_transnext_tiny" for method in METHODS]


class OnPublished(nn.Module):
    """The published formulation of a backbone, which gives the maps that a head takes.

    Parameters
    ----------
    backbone : PublishedTransNeXt
        With ``dense="interpolate"``.
    stages : tuple of int
        Numbers of the maps, from 0.
    """

    def __init__(self, backbone: PublishedTransNeXt, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.published, self.stages = backbone, stages

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.published(images)
        return [maps[stage] for stage in self.stages]


def published_twin(name: str, model: OnBackbone) -> OnBackbone:
    """Return a model of the same weights on the published formulation, sharing the heads."""
    dense = find_dense_model(name)
    arguments = {
        key: getattr(dense.backbone, key)
        for key in ("embed_dims", "num_heads", "depths", "mlp_ratios", "sr_ratios", "window_size")
    }
    sides = {"img_size": dense.img_size, "pretrain_size": dense.backbone.pretrain_size}
    backbone = PublishedTransNeXt(**arguments, **sides, dense="interpolate")
    backbone.load_state_dict(model.backbone.state_dict())
    with torch.device("meta"):
        twin = create_model(name)
    for part, module in model.named_children():
        setattr(twin, part, module)
    twin.backbone = OnPublished(backbone, dense.method.stages)
    return twin.eval()


@torch.inference_mode()
def measure(name: str, size: tuple[int, int], runs: int) -> tuple[list[float], list[float]]:
    """Return seconds of so many runs of our model and of the published one, after one of each."""
    torch.manual_seed(0)
    ours = create_model(name)
    candidates: list[Callable[[Tensor], object]] = [ours.freeze(), published_twin(name, ours)]
    image = torch.randn(1, 3, *size)
    for model in candidates:
        model(image)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for model, seconds in zip(candidates, times, strict=True):
            began = time.perf_counter()
            model(image)
            seconds.append(time.perf_counter() - began)
    return times


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=_ALL, help="names; all of Tiny unless given")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--runs", type=int, default=5, help="of each, interleaved (default 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.models:
        size = tuple(options.size or _SIZES[find_dense_model(name).method.task])
        ours, published = measure(name, size, options.runs)
        ratio = statistics.median(b / a for a, b in zip(ours, published, strict=True))
        print(
            f"{name} {size[0]}x{size[1]}, {options.threads} threads: "
            f"ours {statistics.median(ours):.2f} s (least {min(ours):.2f}), published backbone "
            f"{statistics.median(published):.2f} s, {ratio:.1f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
