"""Three steps of AdamW, clipped to a norm of 1, on golden weights in float64: the published recipe.

    python tests/training/golden_steps.py

writes `golden/adamw_steps.json`, from which `test_training_steps.py` checks what the trainer does.
The gradients of the model come from the oracle's operators; the loss, the clipping and the steps
are written out here in NumPy, from the description of the published training code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

if __name__ == "__main__":
    sys.path += [str(Path(__file__).parents[1] / "support")]

import transnext_ops as ops
from golden_data import load_case
from transnext_models import TransNeXt, create_model

FILE = Path(__file__).parent / "golden" / "adamw_steps.json"
STEPS, RATE, DECAY, NORM = 3, 1e-3, 0.05, 1.0
UNDECAYED = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature")
SHOWN = 4
Weights = dict[str, NDArray[np.float64]]


def golden_model() -> TransNeXt:
    """The model of the gradient case, float64, in evaluation mode: without drop path."""
    case = load_case("tiny_64_grads")
    model = create_model(
        case.variant, img_size=case.img_size, pretrain_size=case.pretrain_size
    ).double()
    model.load_state_dict({name: torch.from_numpy(x) for name, x in case.state_dict().items()})
    return model.eval()


def golden_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """The case's two images, and targets mixed and smoothed as in training, float64 [2, 1000]."""
    images = torch.from_numpy(load_case("tiny_64_grads").images()).double()
    smooth = np.full((2, 1000), 0.1 / 1000)
    smooth[0, 3] += 0.9
    smooth[1, 721] += 0.9
    targets = 0.7 * smooth + 0.3 * smooth[::-1]
    return images, torch.from_numpy(targets)


def described(weights: Weights) -> dict[str, Any]:
    """What is stored of all parameters together, and of one in a hundred."""
    names = sorted(weights)
    return {
        "sum": float(sum(weights[name].sum() for name in names)),
        "sum_of_squares": float(sum(np.square(weights[name]).sum() for name in names)),
        "first": {name: weights[name].ravel()[:SHOWN].tolist() for name in names[::40]},
    }


def _is_decayed(name: str, value: NDArray[np.float64]) -> bool:
    spared = value.ndim == 1 or name.endswith(".bias") or any(part in name for part in UNDECAYED)
    return not spared


def _gradients(model: TransNeXt, weights: Weights) -> tuple[float, Weights]:
    """Loss and gradients of all weights, by the oracle's operators."""
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    model.zero_grad()
    images, soft = golden_batch()
    with ops.use_backend("reference"):
        logits = model(images)
        values = logits.detach().numpy()
        targets = soft.numpy()
        shifted = values - values.max(axis=1, keepdims=True)
        log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = -(targets * log_softmax).sum() / len(values)
        logits.backward(torch.from_numpy((np.exp(log_softmax) - targets) / len(values)))
    found = {name: value.grad for name, value in model.named_parameters()}
    return float(loss), {name: x.numpy().copy() for name, x in found.items() if x is not None}


def main() -> None:
    torch.set_grad_enabled(True)
    model = golden_model()
    weights: Weights = {name: x.detach().numpy().copy() for name, x in model.named_parameters()}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    steps = []
    for step in range(1, STEPS + 1):
        loss, gradients = _gradients(model, weights)
        norm = float(np.sqrt(sum(np.square(value).sum() for value in gradients.values())))
        scale = min(1.0, NORM / (norm + 1e-6))
        for name, value in weights.items():
            gradient = gradients[name] * scale
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * np.square(gradient)
            if _is_decayed(name, value):
                value *= 1 - RATE * DECAY
            root = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
            value -= RATE * first[name] / (1 - 0.9**step) / root
        steps.append({"loss": loss, "norm": norm, **described(weights)})
        print(f"step {step}: loss {loss:.6f}, norm {norm:.6f}")
    FILE.write_text(json.dumps(steps, indent=1) + "\n")


if __name__ == "__main__":
    main()
