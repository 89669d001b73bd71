"""Roofline bounds of the CUDA kernels, from a card's published figures; nothing is measured.

    python -m benchmarks.cuda.roofline        # the table of docs/roofline.md

A kernel's bound is the largest of four times: its bytes at the memory's rate (every input read
once, every result written once), its GEMMs at the tensor cores' rate, its other multiply-adds at
the float32 rate, its exponentials at the special-function units' rate. They overlap on a GPU, so
the largest bounds the kernel, and says what it is bound by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cuda.cases import sizes_of
from benchmarks.shapes.cases import Case
from benchmarks.shapes.sizes import BIAS_HIDDEN, HEAD_DIM, WINDOW_SIZE, Shapes

_CELLS = WINDOW_SIZE**2
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Card:
    """A card's figures, per second, dense, at its boost clock.

    Attributes
    ----------
    bandwidth : float
        Bytes of the memory.
    float32 : float
        Operations outside the tensor cores, two for each multiply-add.
    gemm_rates : dict of float
        Operations of the tensor cores' GEMMs, with float32 sums: ``float16`` (bfloat16 too) and
        ``TF32``.
    exponentials : float
        Of the special-function units: 16 per clock and multiprocessor on each of these cards.
    """

    name: str
    bandwidth: float
    float32: float
    gemm_rates: dict[str, float]
    exponentials: float


def _card(
    name: str,
    gigabytes: float,
    teraflops: float,
    gemms: tuple[float, float],
    processors: int,
    gigahertz: float,
) -> Card:
    float16, tf32 = (1e12 * rate for rate in gemms)
    exponentials = 16 * processors * gigahertz * 1e9
    rates = {"float16": float16, "TF32": tf32}
    return Card(name, gigabytes * 1e9, teraflops * 1e12, rates, exponentials)


# NVIDIA's A100 (80 GB SXM), H100 (SXM) and H200 (SXM) datasheets, Ada GPU architecture whitepaper.
CARDS = (
    _card("A100", 2039, 19.5, (312, 156), 108, 1.41),
    _card("H100", 3350, 66.9, (989, 494), 132, 1.98),
    _card("H200", 4800, 66.9, (989, 494), 132, 1.98),
    _card("RTX 4090", 1008, 82.6, (165.2, 82.6), 128, 2.52),
)


@dataclass(frozen=True)
class Work:
    """What a kernel must do at least."""

    moved: float  # bytes
    gemms: float = 0.0  # operations that tensor cores can take
    other: float = 0.0  # operations that they cannot
    exponentials: float = 0.0  # also of the error function, which costs more than one

    def seconds(self, card: Card, precision: str) -> dict[str, float]:
        """Return the times that bound it, by what they are bound by.

        ``precision`` is that of the GEMMs: ``float32``, which tensor cores do not have, or one
        of the card's.
        """
        tensor_cores = precision in card.gemm_rates
        plain = self.other + (0.0 if tensor_cores else self.gemms)
        return {
            "bytes": self.moved / card.bandwidth,
            "tensor cores": (self.gemms / card.gemm_rates[precision] if tensor_cores else 0.0),
            "float32": plain / card.float32,
            "exp": self.exponentials / card.exponentials,
        }


def attention_work(s: Shapes, element: int, backward: bool, local: bool) -> Work:
    """Return the work of aggregated (``local``) or global attention.

    Per query and head with d channels, L cells and P pooled keys: 4 d P operations of QKᵀ
    and PV over the pooled keys (backward 10 d P: logits recomputed, and two GEMMs for each of the
    forward's), 6 d L of
    the window with its tokens (backward 14 d L), 10 d to normalise, L + P exponentials.
    """
    queries = s.batch * s.length * s.heads
    tokens, pooled = s.batch * s.length * s.width, s.batch * s.pool_length * s.width
    cells = _CELLS if local else 0
    streams = 3 if local else 1  # q, k, v; all keys are pooled ones in global attention
    table = _table_entries(s) * s.heads * _FLOAT
    read = (streams * tokens + 2 * pooled) * element + table
    written = tokens * element + queries * _FLOAT
    gemms = queries * 4.0 * HEAD_DIM * s.pool_length
    other = queries * (6.0 * HEAD_DIM * cells + 10 * HEAD_DIM)
    exponentials = queries * float(cells + s.pool_length)
    if not backward:
        return Work(read + written, gemms, other, exponentials)
    read += 2 * tokens * element + queries * _FLOAT  # d_out, out, log-sum-exp
    written = (streams * tokens + 2 * pooled) * element + table
    other = queries * (14.0 * HEAD_DIM * cells + 20 * HEAD_DIM)
    return Work(read + written, 2.5 * gemms, other, exponentials)


def _table_entries(s: Shapes) -> int:
    rows, columns = (
        size + size // pooled * (pooled - 1)
        for size, pooled in zip(s.grid, s.pool_grid, strict=True)
    )
    return rows * columns


def conv_glu_work(s: Shapes, element: int, backward: bool) -> Work:
    """Return conv_glu's work: 18 operations of the convolution and an error function each output.

    Backward the convolution runs again, transposed, and for its weights.
    """
    outputs = s.batch * s.length * s.hidden
    if not backward:
        return Work(3.0 * outputs * element, other=outputs * 40.0, exponentials=outputs)
    return Work(5.0 * outputs * element, other=outputs * 100.0, exponentials=2.0 * outputs)


def gelu_pool_work(s: Shapes, element: int, backward: bool) -> Work:
    """Return gelu_pool's work.

    For each input an error function, 16 operations and an exponential, and 4 of GELU and the sum.
    Backward 9 more and an exponential: the density, the slope, its part of an output's gradient.
    """
    tokens, pooled = s.batch * s.length * s.width, s.batch * s.pool_length * s.width
    if not backward:
        return Work((tokens + pooled) * element, other=tokens * 20.0, exponentials=tokens)
    moved = (2.0 * tokens + pooled) * element
    return Work(moved, other=tokens * 29.0, exponentials=2.0 * tokens)


def window_work(s: Shapes, element: int, backward: bool) -> Work:
    """Return the work of window_qk; window_av's is the same."""
    tokens, attn = s.batch * s.length * s.width, s.batch * s.length * s.heads * _CELLS
    flops = 2.0 * tokens * _CELLS
    if backward:
        return Work((4.0 * tokens + attn) * element, other=2 * flops)
    return Work((2.0 * tokens + attn) * element, other=flops)


def position_bias_work(s: Shapes, element: int, backward: bool) -> Work:
    """Return the work of the bias MLP over the table."""
    table = _table_entries(s)
    flops = table * BIAS_HIDDEN * (6.0 + 4 * s.heads if backward else 3.0 + 2 * s.heads)
    return Work(table * s.heads * _FLOAT, other=flops)


WORK = {
    "aggregated_attention": lambda s, e, b: attention_work(s, e, b, local=True),
    "global_attention": lambda s, e, b: attention_work(s, e, b, local=False),
    "conv_glu": conv_glu_work,
    "gelu_pool": gelu_pool_work,
    "window_qk": window_work,
    "window_av": window_work,
    "position_bias": position_bias_work,
}


def bound_seconds(case: Case, device_name: str) -> float | None:
    """Return the seconds that an operator's kernels take at least on a card of this name.

    Forward and backward one after the other for both; None for a card or a case without figures.
    """
    card = next((card for card in CARDS if card.name in device_name), None)
    if card is None or case.subject not in WORK:
        return None
    sizes, element = sizes_of(case), 4 if case.dtype == "float32" else 2
    precision = "float32" if case.dtype == "float32" else "float16"
    directions = (False,) if case.direction == "forward" else (False, True)
    works = [WORK[case.subject](sizes, element, backward) for backward in directions]
    return sum(max(work.seconds(card, precision).values()) for work in works)


def lines() -> Iterator[str]:
    """Yield a Markdown table: microseconds and bound for every kernel, shape and card."""
    names = " | ".join(card.name for card in CARDS)
    yield f"| kernel | {names} |"
    yield "| --- |" + " --- |" * len(CARDS)
    for subject, work_of in WORK.items():
        if subject == "window_av":
            continue  # as window_qk
        stage = 3 if subject == "global_attention" else 0
        for batch, size in ((64, (224, 224)), (2, (800, 1280))):
            for dtype, element in (("float16", 2), ("float32", 4)):
                if subject == "position_bias" and dtype == "float16":
                    continue  # its parameters and its table are float32
                for direction in ("forward", "backward"):
                    case = Case("operators", subject, direction, batch, size, (), dtype, stage)
                    work = work_of(sizes_of(case), element, direction == "backward")
                    yield _line(case.name, work, dtype)
                    # The one direction that has kernels for it.
                    if dtype == "float32" and work.gemms and direction == "forward":
                        yield _line(f"{case.name}, TF32", work, "TF32")


def _line(name: str, work: Work, precision: str) -> str:
    cells = " | ".join(_cell(work, card, precision) for card in CARDS)
    return f"| {name} | {cells} |"


def _cell(work: Work, card: Card, precision: str) -> str:
    times = work.seconds(card, precision)
    bound = max(times, key=lambda name: times[name])
    return f"{1e6 * times[bound]:.0f} µs, {bound}"


if __name__ == "__main__":
    print("\n".join(lines()))
