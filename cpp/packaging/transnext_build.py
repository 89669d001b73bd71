"""The build backend: scikit-build-core, and a pure-Python package where there is no compiler.

``TRANSNEXT_LIBRARY`` decides. It is set like an option of CMake, as in
``pip install . -C cmake.define.TRANSNEXT_LIBRARY=ON`` or ``CMAKE_ARGS=-DTRANSNEXT_LIBRARY=ON``:

AUTO
    The default: builds the compiled library if there is a compiler. Otherwise the package has
    only the backends ``torch`` and ``reference``, and reports the reason.
ON
    Fails if the library cannot be built. ``TRANSNEXT_CUDA=ON`` implies it.
OFF
    Builds no library.

A build of the library that starts and fails is always an error.
"""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import io
import os
import shlex
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compiler_search import find_compiler
from scikit_build_core import build as core
from scikit_build_core.errors import NotFoundError

get_requires_for_build_sdist = core.get_requires_for_build_sdist
build_sdist = core.build_sdist

_NOTE = "without_library.txt"  # in dist-info; transnext_ops.backends.cpp_backend reads it
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)

Settings = dict[str, Any]


def get_requires_for_build_wheel(config_settings: Settings | None = None) -> list[str]:
    settings, _ = _plan(config_settings)
    return core.get_requires_for_build_wheel(settings)


def get_requires_for_build_editable(config_settings: Settings | None = None) -> list[str]:
    settings, _ = _plan(config_settings)
    return core.get_requires_for_build_editable(settings)


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings | None = None
) -> str:
    return _prepared(core.prepare_metadata_for_build_wheel, metadata_directory, config_settings)


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: Settings | None = None
) -> str:
    return _prepared(core.prepare_metadata_for_build_editable, metadata_directory, config_settings)


def build_wheel(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    return _built(core.build_wheel, wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    return _built(core.build_editable, wheel_directory, config_settings, metadata_directory)


# -- with the library or without ------------------------------------------------------------------


def _plan(config_settings: Settings | None) -> tuple[Settings, str | None]:
    """Return scikit-build-core's settings, and why the library is left out, None if it is built.

    Sets the compiler for CMake in the environment unless one is chosen.
    """
    settings = dict(config_settings or {})
    library = _option("TRANSNEXT_LIBRARY", settings) or "AUTO"
    if library not in ("AUTO", "ON", "OFF"):
        _fail(f"TRANSNEXT_LIBRARY must be AUTO, ON or OFF, got '{library}'")
    insisted = library == "ON" or _option("TRANSNEXT_CUDA", settings) == "ON"
    if library == "OFF":
        return _without(settings), "TRANSNEXT_LIBRARY=OFF"
    if _option("CMAKE_TOOLCHAIN_FILE", settings) or os.environ.get("CMAKE_TOOLCHAIN_FILE"):
        return settings, None  # which knows its compilers, for another machine perhaps
    compiler, reason = find_compiler(_option("CMAKE_CXX_COMPILER", settings))
    if compiler is not None:
        os.environ.setdefault("CXX", compiler)
        return settings, None
    if insisted:
        _fail(f"the compiled library was asked for, but {reason}")
    return _without(settings), reason


def _without(settings: Settings) -> Settings:
    return {**settings, "wheel.cmake": "false"}


def _option(name: str, settings: Settings) -> str | None:
    """Return an option of CMake from the source of highest priority that sets it."""
    words = shlex.split(os.environ.get("CMAKE_ARGS", ""))
    words += [f"-D{word}" for word in os.environ.get("SKBUILD_CMAKE_DEFINE", "").split(";") if word]
    for i, word in enumerate(words):
        key, equals, value = (
            (words[i + 1 :] or [""])[0].partition("=")
            if word == "-D"
            else (word.removeprefix("-D").partition("="))
        )
        if equals and key.partition(":")[0] == name:
            return value
    for key in (f"cmake.define.{name}", f"skbuild.cmake.define.{name}"):
        if key in settings:
            value = settings[key]
            return str(value[-1] if isinstance(value, list) else value)
    return None


def _prepared(
    hook: Callable[..., str], metadata_directory: str, config_settings: Settings | None
) -> str:
    settings, reason = _plan(config_settings)
    try:
        return hook(metadata_directory, settings)
    except NotFoundError as error:
        _may_do_without(settings, reason, error)
        return hook(metadata_directory, _without(settings))


def _built(
    hook: Callable[..., str],
    wheel_directory: str,
    config_settings: Settings | None,
    metadata_directory: str | None,
) -> str:
    settings, reason = _plan(config_settings)
    if reason is None:
        _check_writable(settings)
    try:
        name = hook(wheel_directory, settings, metadata_directory)
    except NotFoundError as error:  # no CMake, no Ninja
        reason = _may_do_without(settings, reason, error)
        name = hook(wheel_directory, _without(settings))
    except OSError as error:
        if error.errno not in _NOT_WRITABLE or error.filename is None:
            raise
        _fail_to_write(error.filename, error)
    if reason is not None:
        _add_note(Path(wheel_directory, name), reason)
        _say(
            f"installed without the compiled library: {reason}. Backends 'torch' and 'reference' "
            "run everything, more slowly. -C cmake.define.TRANSNEXT_LIBRARY=ON insists on it."
        )
    return name


def _may_do_without(settings: Settings, reason: str | None, error: NotFoundError) -> str:
    asked = "ON" in (_option("TRANSNEXT_LIBRARY", settings), _option("TRANSNEXT_CUDA", settings))
    if reason is not None or asked:
        raise error
    return f"what builds it was not found ({error})"


def _add_note(wheel: Path, reason: str) -> None:
    """Put the reason into a wheel's dist-info."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info: archive.read(info) for info in archive.infolist()}
    (record,) = (info for info in files if info.filename.endswith(".dist-info/RECORD"))
    name = record.filename.removesuffix("RECORD") + _NOTE
    note = f"{reason}\n".encode()
    digest = base64.urlsafe_b64encode(hashlib.sha256(note).digest()).rstrip(b"=").decode()
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([name, f"sha256={digest}", len(note)])
    records = line.getvalue().encode() + files.pop(record)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in files.items():
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
        archive.writestr(name, note)
        archive.writestr(record, records, zipfile.ZIP_DEFLATED)


# -- where it is built ----------------------------------------------------------------------------


def _check_writable(settings: Settings) -> None:
    """Fail if the build folder cannot be written, before CMake fails with its own message."""
    given = settings.get("build-dir") or settings.get("skbuild.build-dir")
    pattern = given or os.environ.get("SKBUILD_BUILD_DIR") or "build/{wheel_tag}"
    folder = Path(str(pattern).partition("{")[0])
    earlier = folder.glob(f"cp{sys.version_info.major}{sys.version_info.minor}-*")
    for its in (folder, *earlier):
        try:
            its.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=its):
                pass
        except OSError as error:
            _fail_to_write(its, error)


def _fail_to_write(path: str | Path, error: OSError) -> None:
    _fail(
        f"cannot write to {Path(path).absolute()}, where the library is built "
        f"({error.strerror}); name another folder: pip install . -C build-dir=/tmp/transnext-build"
    )


def _say(message: str) -> None:
    print(f"\ntransnext: {message}\n", flush=True)


def _fail(message: str) -> None:
    print(f"\ntransnext: {message}\n", file=sys.stderr, flush=True)
    raise SystemExit(1)
