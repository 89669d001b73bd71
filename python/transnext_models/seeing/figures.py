"""The paper's pictures of what a model looks at: receptive fields, foveal attention, one query.

Each ``draw_...`` returns matplotlib's figure, to be saved in any format or drawn on; each
``figure_...`` the same as a PIL image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from ..evaluation.figure import draw_sizes
from .canvas import as_image, new_figure
from .query import QueryAttention
from .receptive_field import ReceptiveField
from .record import AttentionRecord
from .vision import foveal_picture, window_box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "draw_erf",
    "draw_foveal",
    "draw_query",
    "figure_erf",
    "figure_foveal",
    "figure_query",
    "figure_sizes",
]

_PANEL = 2.3  # inches
_HEADS = 4
# Of each field E by itself.
_SCALES = {
    "log": "log10(E + 1), divided by its maximum",
    "linear": "E, divided by its maximum",
    "relative": "log(E / max + 1e-4), from 0 to 1",
}


def draw_erf(fields: Sequence[ReceptiveField], names: Sequence[str], scale: str = "log") -> Figure:
    """Draw receptive fields side by side, as the paper's figure 8.

    Parameters
    ----------
    fields : sequence of ReceptiveField
    names : sequence of str
        A title for each.
    scale : {"log", "linear", "relative"}
        See :meth:`ReceptiveField.scaled`; each field is divided by its own maximum.

    Raises
    ------
    ValueError
        If there are no fields, or not as many names.
    """
    if not fields or len(fields) != len(names):
        raise ValueError(
            f"names: got {len(names)}, needs one for each of {len(fields)} fields, at least one"
        )
    figure = new_figure(_PANEL * max(len(fields), 2), _PANEL + 1.1)
    panels = figure.subplots(1, len(fields), squeeze=False)[0]
    shown: Any = None
    for axes, field, name in zip(panels, fields, names, strict=True):
        shown = axes.imshow(field.scaled(scale).numpy(), vmin=0, vmax=1, cmap=_greens())
        (half,) = field.area_ratios((0.5,))
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(f"50 % within {100 * half.published:.1f} % of the area", fontsize=8)
        _bare(axes)
    bar = figure.colorbar(shown, ax=list(panels), location="top", fraction=0.05, aspect=40)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(_SCALES[scale], fontsize=8)
    return figure


def draw_foveal(
    record: AttentionRecord,
    stage: int = 3,
    block: int = -1,
    position: tuple[int, int] | None = None,
    heads: Sequence[int] | None = None,
) -> Figure:
    """Draw a query's foveal and peripheral maps of some heads, as the paper's figure 7.

    Parameters
    ----------
    record : AttentionRecord
    stage, block : int
        Stage 3's last block unless given.
    position : (int, int), optional
        The query at the image's centre unless given.
    heads : sequence of int, optional
        Four, evenly over all, unless given.

    Raises
    ------
    ValueError
        If a head, or the stage, block or position, does not exist.
    """
    rows = (
        ("foveal", record.foveal(stage, block, position)),
        ("peripheral", record.peripheral(stage, block, position)),
    )
    count = len(rows[0][1])
    if heads is None:
        heads = [number * count // min(_HEADS, count) for number in range(min(_HEADS, count))]
    if not heads or not all(0 <= head < count for head in heads):
        raise ValueError(f"heads: got {list(heads)}, needs numbers from 0 to {count - 1}")
    figure = new_figure(_PANEL * (len(heads) + 1), 2 * _PANEL + 0.3)
    panels = figure.subplots(2, len(heads) + 1, squeeze=False)
    query = record.query(stage, block, position)
    panels[0][0].imshow(record.picture())
    _mark(panels[0][0], query)
    panels[0][0].set_title("query", fontsize=10)
    _bare(panels[0][0])
    panels[1][0].axis("off")
    for (name, maps), line in zip(rows, panels, strict=True):
        for axes, head in zip(line[1:], heads, strict=True):
            axes.imshow(maps[head].numpy(), cmap="viridis")
            axes.set_title(f"head {head + 1}" if name == "foveal" else "", fontsize=10)
            _bare(axes)
        line[1].set_ylabel(f"{name}\n{maps.shape[1]} × {maps.shape[2]}", fontsize=10)
    return figure


def draw_query(
    record: AttentionRecord,
    stage: int = 3,
    block: int = -1,
    position: tuple[int, int] | None = None,
    *,
    pixel: tuple[float, float] | None = None,
    head: int | None = None,
) -> Figure:
    """Draw one query: what it sees, where its attention goes, and how each head divides it.

    Parameters
    ----------
    record : AttentionRecord
    stage, block, position, pixel
        As in :meth:`AttentionRecord.query`.
    head : int, optional
        None for the mean over heads.

    Raises
    ------
    ValueError
        If the stage, block, position or head does not exist.
    """
    query = record.query(stage, block, position, pixel=pixel)
    if head is not None and not 0 <= head < query.heads:
        raise ValueError(f"head: got {head}, needs 0 to {query.heads - 1}")
    figure = new_figure(10.5, 3.6)
    seen, heat, bars = figure.subplots(1, 3)
    picture = record.picture()
    seen.imshow(foveal_picture(query, picture, head))
    seen.set_title("What the query sees", fontsize=9)
    heat.imshow(picture.convert("L"), cmap="gray")
    density = query.density(head=head)
    shown = heat.imshow(_percent_of_cells(density, query), cmap="magma", alpha=0.75)
    heat.set_title(f"Attention, sum {float(density.sum()):.3f}", fontsize=9)
    bar = figure.colorbar(shown, ax=heat, fraction=0.046)
    bar.set_label("% per token", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    for axes in (seen, heat):
        _mark(axes, query)
        _bare(axes)
    share = 100 * query.foveal_share()
    bars.barh(range(1, query.heads + 1), share.numpy(), color="C0", label="window")
    bars.barh(
        range(1, query.heads + 1),
        (100 - share).numpy(),
        left=share.numpy(),
        color="0.82",
        label="pooled",
    )
    bars.set_xlabel("attention (%)", fontsize=9)
    bars.set_ylabel("head", fontsize=9)
    bars.set_ylim(query.heads + 0.6, 0.4)
    bars.set_yticks(range(1, query.heads + 1, max(1, query.heads // 8)))
    bars.tick_params(labelsize=8)
    bars.set_xlim(0, 100)
    bars.set_title(f"Heads of stage {stage}, block {query.block + 1}", fontsize=9)
    figure.legend(*bars.get_legend_handles_labels(), fontsize=8, loc="outside lower right", ncols=2)
    return figure


def figure_erf(
    fields: Sequence[ReceptiveField], names: Sequence[str], scale: str = "log"
) -> Image.Image:
    """Return what :func:`draw_erf` draws as an image."""
    return as_image(draw_erf(fields, names, scale))


def figure_foveal(record: AttentionRecord, *arguments: Any, **options: Any) -> Image.Image:
    """Return what :func:`draw_foveal` draws, which has the parameters, as an image."""
    return as_image(draw_foveal(record, *arguments, **options))


def figure_query(record: AttentionRecord, *arguments: Any, **options: Any) -> Image.Image:
    """Return what :func:`draw_query` draws, which has the parameters, as an image."""
    return as_image(draw_query(record, *arguments, **options))


def figure_sizes(table: str | Path) -> Image.Image:
    """Draw accuracy over image sizes from a table of results of ``transnext evaluate``.

    See :func:`transnext_models.evaluation.figure.draw_sizes`, which writes it beside the table too.
    """
    with Image.open(draw_sizes(Path(table))) as image:
        return image.convert("RGB")


def _percent_of_cells(density: Tensor, query: QueryAttention) -> Any:
    """Return a density as percent per token's area."""
    return (100 * query.stride**2 * density).numpy()


def _greens() -> Any:
    """Return the upper half of RdYlGn, the paper's colours: yellow at 0, dark green at 1."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    colours = matplotlib.colormaps["RdYlGn"]
    return LinearSegmentedColormap.from_list("field", [colours(0.5 + i / 510) for i in range(256)])


def _mark(axes: Any, query: QueryAttention) -> None:
    """Mark the query's pixel, and its window by a frame."""
    from matplotlib.patches import Rectangle

    y, x = query.pixel
    axes.plot([x], [y], "+", color="white", markersize=9, markeredgewidth=2.4)
    axes.plot([x], [y], "+", color="#d00000", markersize=8, markeredgewidth=1.2)
    box = window_box(query)
    if box is not None:
        left, top, right, bottom = box
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                color="#ff3030",
                linewidth=1.2,
            )
        )


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
