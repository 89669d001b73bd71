"""What is measured on a device."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.shapes.cases import OPERATORS, TINY_STAGES, Case
from benchmarks.shapes.sizes import HEAD_DIM, Shapes, shapes

DTYPES = ("float32", "float16", "bfloat16")
SUBJECTS = (
    *(operator for operator in OPERATORS if operator != "position_bias"),
    "pixel_focused_attention",
)
MODELS = ("transnext_micro", "transnext_tiny", "transnext_base")
GLOBAL_STAGE = 3
GLOBAL_HEADS = 24  # of Tiny's last stage


def device_cases() -> Iterator[Case]:
    """Yield operators at Tiny's stages, at 224x224 (batch 64) and 800x1280 (batch 2); models."""
    for dtype in DTYPES:
        for batch, size in ((64, (224, 224)), (2, (800, 1280))):
            for direction in ("forward", "both"):
                for subject in SUBJECTS:
                    for stage in range(len(TINY_STAGES)):
                        yield Case("operators", subject, direction, batch, size, (), dtype, stage)
                yield Case(
                    "operators", "global_attention", direction, batch, size, (), dtype, GLOBAL_STAGE
                )
        for subject in MODELS:
            for direction in ("forward", "both"):
                yield Case("models", subject, direction, 64, (224, 224), (), dtype)


def sizes_of(case: Case) -> Shapes:
    """Return the sizes of an operator's case; global attention's are those of the last stage."""
    if case.subject != "global_attention":
        return shapes(case)
    height, width = (side // 32 for side in case.size)
    hidden = 8 * GLOBAL_HEADS * HEAD_DIM // 3
    return Shapes(case.batch, (height, width), (height, width), (7, 7), GLOBAL_HEADS, hidden)
