"""The kinds of object that an image can be given as, and the bytes of files and streams."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from . import streams
from .errors import Unreadable

_KINDS = "a path, bytes, a binary file, a PIL image, an array or a tensor"
_BYTES = (bytes, bytearray, memoryview)
_ARRAYS = (np.ndarray, torch.Tensor)
_NAMED_KINDS: tuple[tuple[Any, str], ...] = (
    (_BYTES, "bytes"),
    (Image.Image, "image"),
    (np.ndarray, "array"),
    (torch.Tensor, "tensor"),
)


def is_one(value: Any) -> bool:
    """Whether `value` is one image or the name of one, not several."""
    if isinstance(value, _ARRAYS):
        return value.ndim in (0, 2, 3)
    known = (str, os.PathLike, *_BYTES, Image.Image)
    return isinstance(value, known) or callable(getattr(value, "read", None))


def check_source(argument: str, value: Any) -> None:
    """Raise TypeError where `value`, an item of `argument`, is of no type that images have."""
    if isinstance(value, io.TextIOBase):
        raise TypeError(f"{argument}: got a file opened as text, needs one opened with mode 'rb'")
    if not isinstance(value, _ARRAYS) and not is_one(value):
        raise TypeError(f"{argument}: got {type(value).__name__}, needs {_KINDS}")


def name_of(source: Any, index: int) -> Path:
    """Return what to call an image: its path, or its kind and place, such as ``<bytes 3>``."""
    named = source
    if not isinstance(source, (str, os.PathLike)):
        named = getattr(source, "filename", None) or getattr(source, "name", None)
    if isinstance(named, (str, os.PathLike)) and (name := os.fsdecode(named)):
        return Path(name)
    kind = next((name for types, name in _NAMED_KINDS if isinstance(source, types)), "stream")
    return Path(f"<{kind} {index}>")


def stream_of(source: Any) -> Hashable | None:
    """Return what several images that come through one stream have in common; None for others."""
    if isinstance(source, (str, os.PathLike)):
        return streams.descriptor_of(os.fsdecode(source))
    return id(source) if callable(getattr(source, "read", None)) else None


def open_source(source: Any, stop: threading.Event) -> BinaryIO:
    """Return the bytes of a path, of bytes or of an object that reads, as a seekable file.

    Raises
    ------
    Unreadable
        If it cannot be read, or is nothing that holds bytes.
    """
    try:
        if isinstance(source, _BYTES):
            return io.BytesIO(source)
        if not isinstance(source, (str, os.PathLike)):
            return streams.read_object(source, stop)
        name = os.fsdecode(source)
        descriptor = streams.descriptor_of(name)
        if descriptor is not None:
            return streams.read_descriptor(descriptor, stop)
        return _open_path(name, stop)
    except OSError as error:
        raise Unreadable(reason_of(error)) from error


def reason_of(error: OSError) -> str:
    """Say in the words of a file's problem what the operating system said."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    return error.strerror or str(error) or type(error).__name__


def _open_path(name: str, stop: threading.Event) -> BinaryIO:
    if "\0" in name:
        raise Unreadable("no file can have such a name")
    if os.name != "posix" and os.path.isdir(name):  # there a folder cannot be opened at all
        raise Unreadable("a folder, not an image")
    # Not to wait here for the writer of a named pipe.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(name, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            file: BinaryIO = os.fdopen(os.dup(descriptor), "rb")
            return file
        if stat.S_ISDIR(mode):
            raise Unreadable("a folder, not an image")
        if stat.S_ISFIFO(mode):
            return streams.read_pipe(descriptor, stop)
        if stat.S_ISCHR(mode):
            return streams.read_descriptor(descriptor, stop)
        raise Unreadable("a device, not an image")
    finally:
        os.close(descriptor)
