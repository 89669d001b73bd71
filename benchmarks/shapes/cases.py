"""What is measured: cases and candidates, as plain data that travels between processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

PEERS = {
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
    "DaViT-T": "davit_tiny",
    "PVTv2-B2": "pvt_v2_b2",
}
OPERATORS = (
    "aggregated_attention",
    "conv_glu",
    "gelu_pool",
    "position_bias",
    "window_qk",
    "window_av",
)
# TransNeXt-Tiny's stages with a window: heads, pooling ratio, hidden ratio of the ConvGLU.
TINY_STAGES = ((3, 8, 8), (6, 4, 8), (12, 2, 4))
DENSE_IMG_SIZE = 800  # side that the published dense backbones are built for


@dataclass(frozen=True)
class Candidate:
    """One way to do a case's work.

    Attributes
    ----------
    name : str
        As the tables show it.
    code : {"published", "ours", "peer", "gemms", "bound"}
        The published formulation, the packages under test, a timm model, the model's
        GEMMs and convolutions by themselves at the best rate found for each, or the roofline bound
        of an operator.
    dtype : {"float32", "bfloat16"}
        bfloat16 is autocast.
    tuned_allocator : bool
        Run with glibc's allocator set to keep large buffers, so that they cost no page faults.
    compiled : bool
        Through ``torch.compile``.
    model : str
        timm's name of a peer.
    """

    name: str
    code: str
    dtype: str = "float32"
    tuned_allocator: bool = False
    compiled: bool = False
    model: str = ""


@dataclass(frozen=True)
class Case:
    """One thing to measure; the first candidate is the baseline of its ratios.

    Attributes
    ----------
    what : {"operators", "models"}
        Which table it belongs to.
    subject : str
        Operator or model.
    direction : {"forward", "backward", "both"}
        ``both`` is forward + backward in training mode, ``backward`` the gradients alone.
    stage : int
        Stage from 0 whose shapes an operator gets.
    dense : {"", "interpolate", "extrapolate"}
        The model is a backbone with this position bias.
    """

    what: str
    subject: str
    direction: str
    batch: int
    size: tuple[int, int]
    candidates: tuple[Candidate, ...]
    dtype: str = "float32"
    stage: int = 0
    dense: str = ""
    groups: frozenset[str] = field(default_factory=frozenset)

    @property
    def name(self) -> str:
        """A readable name, unique among the cases."""
        place = f" stage {self.stage + 1}" if self.what == "operators" else ""
        mode = f" {self.dense}d" if self.dense else ""
        height, width = self.size
        return (
            f"{self.subject}{place}{mode} {height}x{width} batch {self.batch} {self.dtype} "
            f"{self.direction}"
        )


PUBLISHED = Candidate("published", "published")
TUNED = Candidate("published, tuned allocator", "published", tuned_allocator=True)
COMPILED = Candidate("published, torch.compile", "published", compiled=True)
OURS = Candidate("ours", "ours")
GEMMS = Candidate("GEMM time", "gemms", tuned_allocator=True)
BOUND = Candidate("roofline bound", "bound")
PUBLISHED_BF16 = Candidate("published bfloat16", "published", dtype="bfloat16")
OURS_BF16 = Candidate("ours bfloat16", "ours", dtype="bfloat16")
GEMMS_BF16 = Candidate("GEMM time bfloat16", "gemms", "bfloat16", tuned_allocator=True)


def operator_cases() -> Iterator[Case]:
    """Yield every operator at the shapes of Tiny's stages, at 224x224 (batch 8) and 800x1280.

    Those whose time counts in a model also in bfloat16, at 224x224.
    """
    for operator in OPERATORS:
        directions = ("forward", "backward" if operator == "conv_glu" else "both")
        for batch, size in ((8, (224, 224)), (1, (800, 1280))):
            for stage in range(len(TINY_STAGES)):
                for direction in directions:
                    yield Case(
                        "operators",
                        operator,
                        direction,
                        batch,
                        size,
                        (PUBLISHED, OURS, BOUND),
                        stage=stage,
                        groups=frozenset({"quick"} if size == (224, 224) and stage != 1 else ()),
                    )
    for operator in ("aggregated_attention", "conv_glu", "gelu_pool"):
        for stage in range(len(TINY_STAGES)):
            for direction in ("forward", "backward" if operator == "conv_glu" else "both"):
                yield Case(
                    "operators",
                    operator,
                    direction,
                    8,
                    (224, 224),
                    (PUBLISHED, PUBLISHED_BF16, OURS_BF16, BOUND),
                    dtype="bfloat16",
                    stage=stage,
                )


def model_cases(compiled: bool, peers: bool) -> Iterator[Case]:
    """Yield the whole models.

    Parameters
    ----------
    compiled : bool
        Also ``torch.compile`` of the published formulation, which takes minutes to compile.
    peers : bool
        Also timm's backbones of Tiny's size.
    """
    square, quick = (224, 224), frozenset({"quick"})
    others = tuple(Candidate(name, "peer", model=model) for name, model in PEERS.items())
    forward: tuple[Candidate, ...] = (PUBLISHED, TUNED, OURS, GEMMS)
    if compiled:
        forward += (COMPILED,)
    if peers:
        forward += others
    yield Case("models", "transnext_tiny", "forward", 8, square, forward, groups=quick)
    yield Case(
        "models",
        "transnext_tiny",
        "forward",
        8,
        square,
        (PUBLISHED, PUBLISHED_BF16, OURS_BF16, GEMMS_BF16),
        dtype="bfloat16",
    )
    both = (PUBLISHED, TUNED, OURS, GEMMS)
    yield Case("models", "transnext_tiny", "both", 8, square, both, groups=quick)
    for subject in ("transnext_tiny", "transnext_micro", "transnext_base"):
        tuned = (PUBLISHED, TUNED, OURS, GEMMS)
        yield Case("models", subject, "forward", 1, square, tuned, groups=quick)
    yield Case("models", "transnext_tiny", "forward", 1, (64, 64), (PUBLISHED, OURS, GEMMS))
    for dense, candidates in (
        ("interpolate", (PUBLISHED, OURS, GEMMS)),
        # Without the GEMMs, which are the same: the baseline needs the memory.
        ("extrapolate", (PUBLISHED, OURS)),
    ):
        yield Case(
            "models",
            "transnext_tiny",
            "forward",
            1,
            (800, 1280),
            candidates,
            dense=dense,
        )


def all_cases(compiled: bool = False, peers: bool = True) -> list[Case]:
    """Return every case, operators first."""
    return [*operator_cases(), *model_cases(compiled, peers)]
