"""Video files frame by frame, by PyAV: read upright, and written at the same times.

One frame is decoded at a time, whatever the length of a video. Sound is not kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from transnext_ops.distribution import install_hint

from .images import ImageError
from .images.errors import Unreadable
from .images.memory import check_size

__all__ = ["VIDEO_SUFFIXES", "Frame", "VideoReader", "VideoWriter", "is_video_name"]

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".ogv", ".mts", ".m2ts", ".3gp"),
)
_ENCODERS = (("libx264", {"crf": "20", "preset": "medium"}), ("mpeg4", {"q:v": "3"}))
_FALLBACK_RATE, _HIGHEST_RATE = Fraction(25), 1000
_LEAST_SHARE = 0.9  # of the frames, or the time, that a file says it has
# Angles that frames are to be turned by, against the clock.
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def is_video_name(path: Path) -> bool:
    """Whether a file's suffix says that it is a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise RuntimeError(f"videos need the package av: {install_hint('video')}") from None
    return av


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a video.

    Attributes
    ----------
    index : int
        From 0.
    seconds : float
        When it is shown, from the start.
    image : PIL.Image.Image
        RGB, upright.
    """

    index: int
    seconds: float
    image: Image.Image


class VideoReader:
    """The frames of a video file, in order, once.

    Attributes
    ----------
    path : Path
        The file.
    rate : Fraction
        Frames per second, the mean where they vary.
    count : int
        Frames that the file says it has; 0 where it does not.
    """

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self.path = path
        self._container, self._stream = container, stream
        rates = (stream.average_rate, stream.base_rate, stream.guessed_rate)
        usable = (Fraction(rate) for rate in rates if rate and 0 < rate <= _HIGHEST_RATE)
        self.rate = next(usable, _FALLBACK_RATE)
        self.count = max(0, int(stream.frames or 0))

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[VideoReader]:
        """Open a video file.

        Raises
        ------
        RuntimeError
            Without PyAV.
        ImageError
            If it is no video that can be read.
        """
        av = _av()
        try:
            container = av.open(str(path), metadata_errors="replace")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise ImageError(path, f"no video that can be read: {_reason(error)}") from error
        with container:
            if not container.streams.video:
                raise ImageError(path, "a file without pictures, such as sound alone")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ImageError(path, "a video of a kind that cannot be decoded here")
            try:
                check_size((stream.codec_context.width or 1, stream.codec_context.height or 1))
            except Unreadable as error:
                raise ImageError(path, str(error)) from error
            yield cls(path, container, stream)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises
        ------
        ImageError
            If one is damaged, or the file ends too soon; the message says which.
        """
        av = _av()
        index, start, seconds = 0, None, 0.0
        frames = self._container.decode(self._stream)
        while True:
            try:
                decoded = next(frames, None)
                if decoded is None:
                    break
                if decoded.is_corrupt:
                    raise ImageError(self.path, f"frame {index}: damaged")
                image = decoded.to_image()
            except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
                if isinstance(error, ImageError):
                    raise
                reason = f"frame {index}: cannot be decoded: {_reason(error)}"
                raise ImageError(self.path, reason) from error
            turn = _TURNS.get(round(getattr(decoded, "rotation", 0) or 0) % 360)
            if turn is not None:
                image = image.transpose(turn)
            time = decoded.time
            if time is None:
                time = float(index / self.rate)
            start = time if start is None else start
            seconds = time - start
            yield Frame(index, seconds, image)
            index += 1
        if index == 0:
            raise ImageError(self.path, "a video without frames")
        self._check_end(index, seconds)

    def _check_end(self, count: int, seconds: float) -> None:
        """Raise where a file ends before the frames, or the time, that it says it has."""
        # Some frames may be left out on purpose: cut away at the start, or doubled in the index.
        if count < _LEAST_SHARE * self.count:
            reason = f"the file ends here, and says it has {self.count} frames"
            raise ImageError(self.path, f"frame {count}: {reason}")
        whole = (self._container.duration or 0) / 1e6
        is_alone = len(self._container.streams) == 1  # sound may be longer
        if not self.count and is_alone and seconds + seconds / count < _LEAST_SHARE * whole:
            reason = f"the file ends here, at {seconds:.1f} s, and says it has {whole:.1f} s"
            raise ImageError(self.path, f"frame {count}: {reason}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class VideoWriter:
    """A video file, MP4, of pictures of one size at given times.

    Parameters
    ----------
    file : BinaryIO
        Where it is written.
    rate : Fraction
        Frames per second.
    """

    _TICKS = 90_000  # of a second, so that any usual rate is exact

    def __init__(self, file: BinaryIO, rate: Fraction) -> None:
        self._av = _av()
        self._container = self._av.open(file, "w", format="mp4")
        self._rate, self._last = rate, -1
        self._stream: Any = None

    def add(self, picture: Image.Image, seconds: float) -> None:
        """Write a picture, RGB, to be shown from a time on; that of the first counts as 0.

        Sides are made even, as most players need them.
        """
        if self._stream is None:
            self._stream = self._opened_stream(picture.size)
        stream = self._stream
        if picture.size != (stream.width, stream.height):
            whole = Image.new("RGB", (stream.width, stream.height))
            whole.paste(picture)
            picture = whole
        frame = self._av.VideoFrame.from_image(picture)
        tick = max(self._last + 1, round(seconds * self._TICKS))
        frame.pts, frame.time_base, self._last = tick, Fraction(1, self._TICKS), tick
        self._container.mux(stream.encode(frame))

    def _opened_stream(self, size: tuple[int, int]) -> Any:
        known = self._av.codecs_available
        name, options = next(item for item in _ENCODERS if item[0] in known)
        rate = self._rate.limit_denominator(1 << 16)
        stream = self._container.add_stream(name, rate=rate, options=dict(options))
        stream.width, stream.height = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, self._TICKS)
        return stream

    def close(self) -> None:
        """Write what is left."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
