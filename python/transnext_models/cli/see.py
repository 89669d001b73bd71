"""``transnext see``: what a model looks at, in a browser, as a page, or as the paper's figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .classify import Model, Size
from .console import Debug, command, messages, note, output, usage_error
from .model_options import Backend, Device, Weights
from .optional import optional
from .weights import WeightsKey, weights_remarks

if TYPE_CHECKING:
    from PIL import Image

    from ..seeing.viewer import Session, Subject

_COMPARED = 2  # models that the page shows side by side

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE",
        help="Image files, folders or quoted patterns.  [dim]\\[default: sample digits][/]",
        show_default=False,
    ),
]
Html = Annotated[
    Path | None,
    optional("Write one page that needs no server.", "--html", metavar="FILE"),
]
Erf = Annotated[
    Path | None,
    optional(
        "Draw the effective receptive field over a folder's first images (figure 8).",
        "--erf",
        metavar="FOLDER",
    ),
]
Foveal = Annotated[
    bool, typer.Option("--foveal", help="Draw foveal and peripheral attention (figure 7).")
]
Query = Annotated[
    str | None,
    optional(
        "Draw the attention of one pixel; with --foveal, the pixel that it is of.",
        "--query",
        metavar="Y,X",
    ),
]
Stage = Annotated[
    int | None,
    optional("Of the figures.", default="3; all stages with --erf", min=1, max=4),
]
Block = Annotated[int, typer.Option(help="Of the stage, from 0; -1 is its last.")]
Count = Annotated[int, typer.Option("--images", min=1, help="Images of --erf's folder.")]
Mode = Annotated[
    str,
    typer.Option(
        help="normal, linear (pooled grid of the training size), interpolate (the position bias), "
        "no-length-scaling."
    ),
]
Compare = Annotated[
    list[str] | None,
    optional(
        "A second model beside the first; with --erf any number, also timm/NAME.",
        "--compare",
        metavar="MODEL",
    ),
]
CompareSize = Annotated[
    int | None,
    optional(
        "Image size of the second column of the page: of --compare's model, or of the same.",
        "--compare-size",
        metavar="SIZE",
        min=32,
    ),
]
Output = Annotated[
    Path | None,
    optional(
        "A figure's file, .png or .svg; its numbers go beside it as .json and .csv.",
        "--output",
        metavar="FILE",
        default="erf.png, foveal.png, query.png",
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 is any free one.")]
Browser = Annotated[bool, typer.Option(help="Open the page in a browser.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("see")(see)


@command
def see(
    images: Images = None,
    html: Html = None,
    erf: Erf = None,
    foveal: Foveal = False,
    query: Query = None,
    stage: Stage = None,
    block: Block = -1,
    count: Count = 50,
    model: Model = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    size: Size = None,
    mode: Mode = "normal",
    compare: Compare = None,
    compare_size: CompareSize = None,
    device: Device = "auto",
    backend: Backend = None,
    output_file: Output = None,
    port: Port = 0,
    browser: Browser = True,
    debug: Debug = False,
) -> None:
    """See what a model looks at: sharp in a small window, blurred everywhere else.

    Opens a page in the browser, served to this machine alone until ctrl-C. With --html the page
    is one file that shows the same without a server. The other options draw a figure.
    """
    figure = erf is not None or foveal or query is not None
    if html is not None and figure:
        usage_error("got a figure as well; the page is drawn for itself", "--html")
    if compare and len(compare) >= _COMPARED and erf is None:
        usage_error(f"got {len(compare)} models, the page has room for one", "--compare")
    if compare_size is not None and figure:
        usage_error("got a figure as well; it sets the page's second column", "--compare-size")
    pixel = None if query is None else _pixel(query)
    with messages().status("loading torch"):  # seen on a terminal only
        from . import see_figures

        see_figures.check_mode(mode)
    if erf is not None:
        names = [model, *(compare or [])]
        written = see_figures.receptive_fields(
            erf, names, weights, weights_key, size, mode, stage, count, device, output_file
        )
        _say_written(written)
        return

    with weights_remarks():
        subjects = [see_figures.subject(model, weights, weights_key, size, mode, device, backend)]
        for name in compare or []:
            subjects.append(
                see_figures.subject(name, None, None, compare_size, mode, device, backend)
            )
        if compare_size is not None and not compare:
            subjects.append(
                see_figures.subject(
                    model, weights, weights_key, compare_size, mode, device, backend
                )
            )
    shown = _images(images)
    if figure:
        only = next(iter(shown.values()))
        written = see_figures.attention(
            subjects[0], only, foveal, pixel, stage or 3, block, output_file
        )
        _say_written(written)
        return
    _page(subjects, shown, html, port, browser)


def _page(
    subjects: list[Subject],
    shown: dict[str, Image.Image],
    html: Path | None,
    port: int,
    open_: bool,
) -> None:
    from ..seeing.viewer import Session, static_page

    session = Session(subjects, shown)
    if html is None:
        _serve(session, port, open_)
        return
    with messages().status("recording") as status:
        page = static_page(session, progress=lambda name: status.update(f"recording {name}"))
    from .see_figures import write

    data = page.html.encode()
    write(html, data)
    note(*page.remarks, f"{len(data) / 2**20:.1f} MiB; it needs no server and no network")
    _say_written([html])


def _serve(session: Session, port: int, open_: bool) -> None:
    import webbrowser

    from ..seeing.viewer import ViewerServer

    server = ViewerServer(session, port)
    try:
        output().print(server.url, soft_wrap=True)
        note("for this machine alone; ctrl-C ends it")
        if open_:
            webbrowser.open(server.url)
        server.serve_forever()
    finally:
        server.close()


def _images(names: list[str] | None) -> dict[str, Image.Image]:
    """Return the images by name; one that cannot be read is an error, as it was asked for."""
    from ..images import find_images, read_image
    from ..seeing.viewer import sample_images

    if not names:
        return sample_images()
    found = find_images(names)
    for problem in found.problems:
        raise ValueError(str(problem))
    if not found.paths:
        usage_error("got no image there", "IMAGE")
    return {str(path): read_image(path) for path in found.paths}


def _pixel(text: str) -> tuple[float, float]:
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        usage_error(f"got {text!r}, needs two numbers such as 120,96", "--query")
    return y, x


def _say_written(paths: list[Path]) -> None:
    for path in paths:
        output().print(str(path), soft_wrap=True)
