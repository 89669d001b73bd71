"""Time detectors and segmentors beside the same heads on the published backbone.

    python -m benchmarks.dense                                    # all of Tiny, minutes
    python -m benchmarks.dense upernet_transnext_tiny --runs 3    # one, a look

Inference of one image on a CPU in float32: 800 x 1280 for detectors, 512 x 512 for segmentors, with
random weights and an image of noise. Both models have the same weights and heads, and their runs
are interleaved, so that what else the machine does slows both. A large product of matrices takes
its turn too: its rate tells how fast the processor was meanwhile, which differs twofold between
hours where a machine is shared.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.published.model import PublishedTransNeXt
from benchmarks.roofline.rates import best_gemm
from transnext_models import create_model
from transnext_models.dense.backbone import OnBackbone
from transnext_models.dense.published import METHODS, find_dense_model

__all__ = ["OnPublished", "Times", "measure", "published_twin"]

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
    twin = copy.copy(model)  # its parameters too, of which DINO has some that no part owns
    twin._modules = dict(model._modules)
    twin.backbone = OnPublished(backbone, dense.method.stages)
    return twin.eval()


@dataclass(frozen=True)
class Times:
    """Seconds of runs that took turns.

    Attributes
    ----------
    ours, published, product : list of float
        Of our model, of the published one, and of a product of matrices.
    flops : float
        Of the product.
    """

    ours: list[float] = field(default_factory=list)
    published: list[float] = field(default_factory=list)
    product: list[float] = field(default_factory=list)
    flops: float = 0.0

    def __str__(self) -> str:
        ratio = statistics.median(b / a for a, b in zip(self.ours, self.published, strict=True))
        rate = self.flops / statistics.median(self.product) / 1e9
        return (
            f"ours {statistics.median(self.ours):.2f} s (least {min(self.ours):.2f}), published "
            f"backbone {statistics.median(self.published):.2f} s, {ratio:.1f} times; "
            f"a product meanwhile {rate:.0f} GFLOP/s"
        )


@torch.inference_mode()
def measure(name: str, size: tuple[int, int], runs: int) -> Times:
    """Return the seconds of so many runs of both models and a product, after one of each."""
    torch.manual_seed(0)
    ours = create_model(name)
    frozen, twin = ours.freeze(), published_twin(name, ours)
    image = torch.randn(1, 3, *size)
    product, flops = best_gemm()
    times = Times(flops=flops)
    turns: list[tuple[Callable[[], object], list[float]]] = [
        (product, times.product),
        (lambda: frozen(image), times.ours),
        (lambda: twin(image), times.published),
    ]
    for call, _ in turns:
        call()
    for _ in range(runs):
        for call, seconds in turns:
            began = time.perf_counter()
            call()
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
        times = measure(name, size, options.runs)
        print(f"{name} {size[0]}x{size[1]}, {options.threads} threads: {times}", flush=True)


if __name__ == "__main__":
    main()
