"""What must hold for any file that is read as weights, whatever is in it."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError

from transnext_models.checkpoints import (
    CheckpointError,
    WeightsFile,
    WeightsWarning,
    class_names,
    convert,
    image_side,
    read_weights,
)

MB = 1_000_000
# What may lie behind a refusal: anything else is an error that nobody thought of.
_EXPECTED = ("BadZipFile", "EOFError", "NotImplementedError", "NotWeightsError", "OSError")
_EXPECTED += (
    "PickleDataError",
    "PickleTooLargeError",
    "RecursionError",
    "TensorDataError",
    "UnicodeDecodeError",
    "error",
)
_EXPECTED += ("JSONDecodeError", "ValueError")
_LONGEST = 1200
_THOROUGHLY = 8  # one of so many mutations
# A machine that does other things too may take longer than the promise.
_PATIENCE = 5


def examine(path: Path, *, thoroughly: bool = True) -> str:
    """Read a file, every way there is if `thoroughly`; return ``read`` or why it is refused.

    Raises
    ------
    AssertionError
        If anything else happens: another exception, a message without the file's name or over
        several lines, more time than promised, or a tensor larger than the file.
    """
    size = path.stat().st_size
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", WeightsWarning)
        result = _read(path, size, strict=True, thoroughly=thoroughly)
        if thoroughly:
            _read(path, size, strict=False, thoroughly=False)
    taken = time.process_time() - started
    assert taken < _PATIENCE * (1 + size / MB), f"{taken:.1f} s for {size} bytes"
    return result


def _read(path: Path, size: int, *, strict: bool, thoroughly: bool) -> str:
    try:
        weights = read_weights(path, strict=strict)
    except CheckpointError as error:
        return _checked(error, path)
    _check_weights(weights, size)
    image_side(weights, "img_size")
    class_names(weights)
    if thoroughly:
        _check_conversion(weights)
    return "read"


def _checked(error: CheckpointError, path: Path) -> str:
    message = str(error)
    assert message.startswith(f"{path}: "), message
    assert message.isprintable(), message
    assert len(message) < _LONGEST + len(str(path)), len(message)
    if error.__cause__ is not None:
        assert type(error.__cause__).__name__ in _EXPECTED, repr(error.__cause__)
    return message


def _check_weights(weights: WeightsFile, size: int) -> None:
    total = sum(tensor.nbytes for tensor in weights.state_dict.values())
    assert total <= 1.5 * size + MB, total
    for tensor in weights.state_dict.values():
        assert tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        assert tensor.isfinite().all()
    if weights.architecture is not None:
        assert (weights.architecture.num_classes or 0) <= size
        assert max(weights.architecture.embed_dims) <= size
        assert len(str(weights.architecture)) < _LONGEST


def _check_conversion(weights: WeightsFile) -> None:
    """What was read can be written, and the library `safetensors` reads the same."""
    if weights.architecture is None:
        return
    from safetensors.torch import load_file

    target = weights.path.with_name("converted.safetensors")
    convert(weights.path, target, overwrite=True)
    again = load_file(target)
    assert again.keys() == weights.state_dict.keys()
    for name, tensor in weights.state_dict.items():
        assert torch.equal(again[name], tensor)


def library_agrees(path: Path) -> None:
    """Compare the reader of safetensors with the library's own: no file is read otherwise."""
    from safetensors.torch import load_file

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeightsWarning)
            weights = read_weights(path)
    except CheckpointError:
        return
    try:
        theirs = load_file(path)
    except SafetensorError as error:
        raise AssertionError(f"{path} is read, but safetensors says {error}") from error
    if weights.prefix or weights.left_out:
        theirs = {
            name.removeprefix(weights.prefix): value
            for name, value in theirs.items()
            if name.startswith(weights.prefix)
        }
    assert theirs.keys() == weights.state_dict.keys()
    for name, value in theirs.items():
        assert torch.equal(value, weights.state_dict[name])


def memory_folder() -> str | None:
    """Return a folder in memory, where there is one: millions of files need no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def examine_mutations(first: int, count: int) -> str:
    """Examine the mutations numbered from `first` on; return how many were read and refused."""
    from weights_corpus import weights_files
    from weights_mutations import numbered

    files = weights_files()
    read = 0
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        path = Path(folder, "x.pth")
        for number in range(first, first + count):
            data = numbered(files, number)
            path.write_bytes(data)
            try:
                read += examine(path, thoroughly=number % _THOROUGHLY == 0) == "read"
                if data[8:9] == b"{":
                    library_agrees(path)
            except BaseException:
                print(f"mutation {number}", file=sys.stderr)
                raise
    return f"{read} {count - read}"
