"""What ``detect`` and ``segment`` do alike: images and videos through a model, pictures, JSON."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import typer
from rich.console import Console

from .console import as_json, keep_result, messages, note, print_rows, usage_error
from .image_files import (
    Screen,
    files_in_json,
    left_out_remark,
    print_skipped,
    samples_folder,
    screen_for,
    time_text,
    title_of,
)
from .optional import optional
from .weights import weights_remarks

if TYPE_CHECKING:
    from PIL import Image

    from ..dense_runner import DenseRunner
    from ..images import FoundImages, ImageError, LeftOut
    from ..video import Frame, VideoReader

__all__ = ["Answer", "DenseTask", "DenseWeights", "Samples", "run_on_files"]

_MOST_ROWS = 8  # shown of a result

DenseWeights = Annotated[
    str | None,
    optional(
        "Weights: a file (.pth, .safetensors) or owner/repo:file on the Hub.",
        "--weights",
        default="the model's own",
    ),
]


Samples = Annotated[
    bool,
    typer.Option("--samples", help="Take the samples in this package: digits on photographs."),
]


class Answer(Protocol):
    """What a model says of an image."""

    @property
    def path(self) -> Path:
        """The image file."""

    @property
    def image(self) -> Image.Image:
        """The image, upright, RGB."""

    @property
    def seconds(self) -> float:
        """The model's time."""


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class DenseTask(Generic[A]):
    """What `detect` or `segment` does with images and answers.

    Attributes
    ----------
    runner : DenseRunner
        The model.
    answers : callable
        Of any number of images.
    entry : callable
        What JSON says of an answer.
    rows : callable
        What text says: the names of what is there, each with a number.
    pictures : callable
        Pictures of an answer by the ends of their names, the first for a person.
    frame : callable
        A picture of a video's frame, of one size for all frames.
    """

    runner: DenseRunner[Any]
    answers: Callable[[Iterable[Any]], Iterator[A | ImageError]]
    entry: Callable[[A], dict[str, Any]]
    rows: Callable[[A], list[tuple[str, str]]]
    pictures: Callable[[A], dict[str, Image.Image]]
    frame: Callable[[A], Image.Image]
    kept: Callable[[A], None] = field(default=lambda answer: None)


def run_on_files(
    names: Sequence[str] | None,
    samples: bool,
    load: Callable[[FoundImages, ExitStack], DenseTask[Any]],
    *,
    out: Path | None,
    json: bool,
    takes_videos: bool = True,
) -> None:
    """Run a model on the images and videos that names stand for; ends the command.

    Parameters
    ----------
    names : sequence of str | None
        Files, folders, patterns.
    samples : bool
        Whether the sample images of this package are taken too.
    load : callable
        Builds the task, once it is known what there is to do; what it enters is left at the end.
    out : Path | None
        Folder for pictures and videos.
    json : bool
        Print JSON rather than text.
    takes_videos : bool
        Whether videos are run too; otherwise they are an error of usage.
    """
    names = [*(names or ()), *([str(samples_folder("scenes"))] if samples else ())]
    if not names:
        usage_error("give image or video files, folders or patterns, or --samples", "IMAGE")
    from ..images import find_images
    from ..video import VIDEO_SUFFIXES, is_video_name

    found = find_images(names, VIDEO_SUFFIXES)
    run = _Run(list(found.problems), found.left_out, out, json)
    keep_result(run.document)
    for problem in found.problems:
        print_skipped(problem, messages())
    if found.left_out:
        note(left_out_remark(found.left_out))
    videos = [path for path in found.paths if is_video_name(path)]
    images = [path for path in found.paths if not is_video_name(path)]
    if videos and not takes_videos:
        usage_error(f"takes images, not videos such as {videos[0]}", "--coco-json")
    if found.paths:
        with ExitStack() as entered:
            with weights_remarks():
                run.task = load(found, entered)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
            run.images(images)
            for path in videos:
                run.video(path)
    if json:
        as_json(run.document())
    if run.skipped:
        raise typer.Exit(1)


class _Run:
    """What the command has come to."""

    def __init__(
        self, skipped: list[ImageError], left_out: list[LeftOut], out: Path | None, json: bool
    ) -> None:
        self.skipped, self.left_out = skipped, left_out
        self.out, self.json = out, json
        self.task: DenseTask[Any] | None = None
        self.of_images: list[dict[str, Any]] = []
        self.of_videos: list[dict[str, Any]] = []

    def document(self) -> dict[str, Any]:
        """Return the document of ``--json``."""
        about: dict[str, Any] = {}
        if self.task is not None:
            runner = self.task.runner
            about = {
                "model": runner.name,
                "weights": str(runner.weights),
                "num_classes": len(runner.class_names),
                "device": str(runner.device),
            }
        videos = {"videos": self.of_videos} if self.of_videos else {}
        files = files_in_json(self.skipped, self.left_out)
        return {**about, "images": self.of_images, **videos, **files}

    def images(self, paths: Sequence[Path]) -> None:
        """Run the model on images."""
        from ..images import ImageError

        assert self.task is not None
        if not paths:
            return
        with screen_for(len(paths)) as screen:
            for answer in self.task.answers(paths):
                if isinstance(answer, ImageError):
                    self._skip(answer, screen.messages)
                else:
                    self._add(answer, screen)
                screen.advance()

    def _skip(self, problem: ImageError, console: Console) -> None:
        self.skipped.append(problem)
        print_skipped(problem, console)

    def _add(self, answer: Answer, screen: Screen) -> None:
        assert self.task is not None
        entry: dict[str, Any] = {
            "file": str(answer.path),
            "width": answer.image.width,
            "height": answer.image.height,
            "time_ms": round(1000 * answer.seconds, 3),
            **self.task.entry(answer),
        }
        picture = None
        if self.out is not None:
            picture = _save(self.task.pictures(answer), self.out, answer.path.stem)
            entry["picture"] = str(picture)
        self.task.kept(answer)
        self.of_images.append(entry)
        if not self.json:
            _print(screen.results, title_of(answer.path, answer.seconds), self.task.rows(answer))
            if picture is not None:
                note(f"  {picture}", console=screen.results)
            screen.results.print()

    def video(self, path: Path) -> None:
        """Run the model on a video, frame by frame; what is broken leaves nothing behind."""
        from ..images import ImageError
        from ..video import VideoReader

        try:
            with VideoReader.opened(path) as video, screen_for(video.count, "frames") as screen:
                self._frames(path, video, screen)
        except ImageError as problem:
            self._skip(problem, messages())

    def _frames(self, path: Path, video: VideoReader, screen: Screen) -> None:
        from ..images import ImageError
        from ..training.durable import written_durably
        from ..video import VideoWriter

        assert self.task is not None
        frames: list[dict[str, Any]] = []
        counts: Counter[str] = Counter()
        seconds, size, target = 0.0, (0, 0), None
        with ExitStack() as entered:
            writer = None
            if self.out is not None:
                stem = _free_stem(self.out, path.stem, [".mp4"])
                target = self.out / f"{stem}.mp4"
                writer = VideoWriter(entered.enter_context(written_durably(target)), video.rate)
            for frame, answer in _answered(video, self.task.answers):
                if isinstance(answer, ImageError):
                    raise ImageError(path, f"frame {frame.index}: {answer.reason}")
                seconds, size = seconds + answer.seconds, frame.image.size
                entry = {"frame": frame.index, "seconds": round(frame.seconds, 6)}
                frames.append({**entry, **self.task.entry(answer)})
                counts.update({name for name, _ in self.task.rows(answer)})
                if writer is not None:
                    writer.add(self.task.frame(answer), frame.seconds)
                screen.advance()
            if writer is not None:
                writer.close()
        document: dict[str, Any] = {
            "file": str(path),
            "width": size[0],
            "height": size[1],
            "frame_rate": float(video.rate),
            "time_ms": round(1000 * seconds, 3),
            "frames": frames,
        }
        if target is not None:
            document["video"] = str(target)
        self.of_videos.append(document)
        if not self.json:
            mean = f"{len(frames)} frames, {time_text(seconds / len(frames))} each"
            rows = [(name, f"in {count} frames") for name, count in counts.most_common()]
            _print(screen.results, title_of(path, seconds), [(mean, ""), *rows])
            if target is not None:
                note(f"  {target}", console=screen.results)
            screen.results.print()


def _answered(
    video: Iterable[Frame], answers: Callable[[Iterable[Any]], Iterator[Any]]
) -> Iterator[tuple[Frame, Any]]:
    """Yield the frames of a video with their answers; a few frames are decoded ahead."""
    waiting: deque[Frame] = deque()

    def images() -> Iterator[Image.Image]:
        for frame in video:
            waiting.append(frame)
            yield frame.image

    for answer in answers(images()):
        yield waiting.popleft(), answer


def _print(console: Console, title: Any, rows: Sequence[tuple[str, str]]) -> None:
    console.print(title, soft_wrap=True)
    shown = list(rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        shown.append((f"{len(rows) - _MOST_ROWS} more", ""))
    if shown:
        print_rows(shown, right=(1,), indent=2, console=console)


def _save(pictures: dict[str, Image.Image], folder: Path, stem: str) -> Path:
    """Write pictures under names that are not taken; return the first's."""
    from ..training.durable import written_durably

    free = _free_stem(folder, stem, list(pictures))
    for end, picture in pictures.items():
        with written_durably(folder / f"{free}{end}") as file:
            picture.save(file, "png")
    return folder / f"{free}{next(iter(pictures))}"


def _free_stem(folder: Path, stem: str, ends: Sequence[str]) -> str:
    free, number = stem, 1
    while any((folder / f"{free}{end}").exists() for end in ends):
        number += 1
        free = f"{stem}_{number}"
    return free
