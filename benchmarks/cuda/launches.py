"""What launches cost: a model called eagerly, captured, compiled, and as a bare CUDA graph.

    python -m benchmarks.cuda.launches                         # Tiny 224x224, batch 64, float16
    python -m benchmarks.cuda.launches --batch 1 --no-compile  # one image; compiling takes minutes

Forward passes are of one frozen model. Training steps are forward, backward and fused AdamW, of
models with the same weights, one for each way. Runs are interleaved, times are medians, and ratios
are over the bare graph, which is nothing but kernels: what is above 1 is what the way adds to them.
Elsewhere than on a CUDA device there is no graph, and ratios are over the eager call.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cuda.clock import Clock
from benchmarks.cuda.command import find_device
from benchmarks.cuda.interleave import interleaved_seconds, relative_error
from benchmarks.shapes.cases import Case
from transnext_models import create_model
from transnext_models.capture import capture, capture_training

__all__ = ["Setting", "main", "measure", "ways_forward", "ways_to_train"]

Call = Callable[[], object]
_CLASSES = 1000
_TOLERANCE = 3e-2  # of logits, ||difference|| / ||eager||: compilers round 16 bits elsewhere


@dataclass(frozen=True)
class Setting:
    """What is called.

    Attributes
    ----------
    variant : str
        Of `transnext_models.create_model`.
    side : int
        Pixels of an image, square.
    dtype : str
        Of autocast; "float32" for none.
    compiled : bool
        Also ``torch.compile(mode="reduce-overhead")``.
    """

    device: torch.device
    variant: str = "transnext_tiny"
    batch: int = 64
    side: int = 224
    dtype: str = "float16"
    compiled: bool = True

    def case(self, direction: str) -> Case:
        """Return the case of a direction, "forward" or "both"."""
        size = (self.side, self.side)
        return Case("models", self.variant, direction, self.batch, size, (), self.dtype)

    def autocast(self) -> torch.autocast:
        """Return the context of a call."""
        dtype = getattr(torch, self.dtype)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def batch_of_images(self) -> tuple[Tensor, Tensor]:
        """Return random images and labels."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, 3, self.side, self.side, generator=generator)
        labels = torch.randint(_CLASSES, (self.batch,), generator=generator)
        return images.to(self.device), labels.to(self.device)


def measure(setting: Setting, runs: int = 11) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield a direction and its median seconds by way; what fails is told on stderr.

    Raises
    ------
    ArithmeticError
        A way's logits are not those of the eager call.
    """
    clock = Clock(setting.device)
    for direction, ways in (("forward", ways_forward), ("both", ways_to_train)):
        calls = ways(setting)
        seconds = interleaved_seconds(setting.case(direction), calls, clock, runs)
        yield direction, {way: statistics.median(found) for way, found in seconds.items()}


def ways_forward(setting: Setting) -> dict[str, Call]:
    """Return forward passes by way, whose logits agree."""
    images, _ = setting.batch_of_images()
    torch.manual_seed(0)
    model = create_model(setting.variant, img_size=setting.side).to(setting.device).eval()
    model.freeze()

    def call(function: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def forward() -> Tensor:
            with torch.inference_mode(), setting.autocast():
                return function(images)

        return forward

    ways = {"eager": call(model), "capture": call(capture(model))}
    if setting.compiled:
        ways["compile"] = call(torch.compile(model, mode="reduce-overhead"))
    expected = ways["eager"]()
    for name, way in ways.items():
        actual = [way() for _ in range(5)][-1]  # the first ones record
        error = relative_error(actual, expected)
        if not error <= _TOLERANCE:
            raise ArithmeticError(f"{name}: its logits are off by {error:.1e}")
    return _with_graph(setting, dict(ways), ways["eager"])


def ways_to_train(setting: Setting) -> dict[str, Call]:
    """Return training steps by way; each has a model and an optimiser of its own."""
    images, labels = setting.batch_of_images()
    torch.manual_seed(0)
    first = create_model(setting.variant, img_size=setting.side).to(setting.device).train()

    def parts(**compiling: str) -> tuple[Callable[..., Tensor], torch.optim.Optimizer]:
        model: nn.Module = copy.deepcopy(first)
        called = torch.compile(model, **compiling) if compiling else model
        # Recorded steps keep their count on the device.
        on_device = {"capturable": True} if setting.device.type == "cuda" else {}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True, **on_device)

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            with setting.autocast():
                logits = called(images)
            return F.cross_entropy(logits.float(), labels)

        return loss, optimizer

    def by_hand(loss: Callable[..., Tensor], optimizer: torch.optim.Optimizer) -> Call:
        def step() -> None:
            optimizer.zero_grad()
            loss(images, labels).backward()
            optimizer.step()

        return step

    captured = capture_training(*parts())
    ways: dict[str, Call] = {
        "eager": by_hand(*parts()),
        "capture": lambda: captured(images, labels),
    }
    if setting.compiled:
        ways["compile"] = by_hand(*parts(mode="reduce-overhead"))
    return _with_graph(setting, ways, by_hand(*parts()))


def _with_graph(setting: Setting, ways: dict[str, Call], bare: Call) -> dict[str, Call]:
    if setting.device.type != "cuda":
        return ways
    for _ in range(4):  # what the others record and compile is there before the graph is
        for way in ways.values():
            way()
    return {"graph": Clock(setting.device, graphs=True).prepared(bare), **ways}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each direction and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    dtypes = ("float16", "bfloat16", "float32")
    parser.add_argument("--device", default="cuda", help="a torch device")
    parser.add_argument("--variant", default=Setting.variant, help="a model of the package")
    parser.add_argument("--batch", type=int, default=Setting.batch, help="images of a call")
    parser.add_argument("--side", type=int, default=Setting.side, help="pixels of an image")
    parser.add_argument("--dtype", default=Setting.dtype, choices=dtypes, help="of autocast")
    parser.add_argument("--runs", type=int, default=11, help="of each way")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    chosen = parser.parse_args(arguments)
    device = find_device(chosen.device)
    setting = Setting(
        device, chosen.variant, chosen.batch, chosen.side, chosen.dtype, not chosen.no_compile
    )
    print(
        f"{Clock(device).name()}: {setting.variant} {setting.side}x{setting.side}, "
        f"batch {setting.batch}, {setting.dtype}"
    )
    for direction, seconds in measure(setting, chosen.runs):
        least = seconds.get("graph", seconds["eager"])
        title = "forward" if direction == "forward" else "training step"
        for way, taken in seconds.items():
            print(f"{title:14s} {way:8s} {taken * 1e3:9.2f} ms {taken / least:6.2f}")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and the description as it is written."""


if __name__ == "__main__":
    main()
