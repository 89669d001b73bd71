"""Export a model to ONNX for any batch size, and compare ONNX Runtime's output with PyTorch's.

Run: ``pip install ".[export]" onnxruntime`` and ``python examples/export_onnx.py pico.onnx``
"""

import sys

import onnxruntime
import torch

from transnext_models import create_model


def main(path: str = "pico.onnx") -> None:
    """Write the digits model that the package ships to ``path``."""
    model = create_model("transnext_pico", weights="transnext_pico").eval()
    images = torch.randn(2, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=256)
    torch.onnx.export(
        model, (images,), path, dynamo=True, verbose=False, input_names=["images"],
        output_names=["logits"], dynamic_shapes=({0: batch},),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in (1, 2, 5):
        images = torch.randn(size, 3, 64, 64)
        (logits,) = session.run(None, {"images": images.numpy()})
        with torch.inference_mode():
            error = (torch.from_numpy(logits) - model(images)).abs().max().item()
        print(f"batch {size}: largest difference from PyTorch {error:.1e}")
        assert error < 1e-4


if __name__ == "__main__":
    main(*sys.argv[1:])
