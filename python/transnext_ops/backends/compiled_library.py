"""Why ``transnext_ops._cpp`` is missing: a package built without it, or a file that does not load.

The first is a way to install and is said where somebody asks (``explain_backend``, ``transnext
info``). The second leaves a program slower than it was built to be, so it is warned of at import.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from transnext_ops.distribution import NAME

_PACKAGE = Path(__file__).resolve().parents[1]
_MODULE = "transnext_ops._cpp"
_NOTE = "without_library.txt"  # in dist-info, from the build backend (cpp/packaging)


def why_missing(error: str) -> str:
    """Say why importing the library failed with `error`, and what to do."""
    if (broken := _why_not_loadable(error)) is not None:
        return broken
    if (note := _note()) is not None:
        return (
            f"{NAME} was installed without the compiled library: {note}; 'pip install .' in the "
            "project's folder builds it where there are a C++ compiler and Python's headers"
        )
    return (
        "the compiled library is not there; build it with 'pip install .' in the project's folder, "
        "which needs a C++ compiler"
    )


def warn_if_not_loadable(error: str) -> None:
    """Warn of a library that is there but did not load: a RuntimeWarning that names its file."""
    if (broken := _why_not_loadable(error)) is not None:
        warnings.warn(
            f"{broken}. Until then operators run on backend 'torch', several times slower",
            RuntimeWarning,
            stacklevel=4,  # whoever imports transnext_ops
        )


def _why_not_loadable(error: str) -> str | None:
    """Name the file that could not be loaded, with the reason; None where there is no file."""
    reinstall = f"install {NAME} again, from its source, with this Python"
    try:
        spec = importlib.util.find_spec(_MODULE)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.origin is not None:
        return f"the compiled library {spec.origin} cannot be loaded ({error}); {reinstall}"
    for path in sorted(_PACKAGE.glob("_cpp.*")):
        if path.suffix in (".so", ".pyd", ".dylib"):
            return (
                f"the compiled library {path} is for another Python, this one loads "
                f"_cpp{EXTENSION_SUFFIXES[0]}; {reinstall}"
            )
    for file in _installed_files():
        if file.name.startswith("_cpp.") and file.suffix in (".so", ".pyd"):
            return f"the compiled library {file.locate()} was installed and is gone; {reinstall}"
    return None


def _distribution() -> importlib.metadata.Distribution | None:
    """Return what installed this very package, None for a folder that is only on the path."""
    try:
        distribution = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:
        return None
    own = Path(str(distribution.locate_file("transnext_ops/__init__.py")))
    if own.exists():
        return distribution if own.resolve().parent == _PACKAGE else None
    return distribution  # editable: the package is elsewhere


def _installed_files() -> list[importlib.metadata.PackagePath]:
    distribution = _distribution()
    files = distribution.files if distribution is not None else None
    return [file for file in files or () if file.parent.name == "transnext_ops"]


def _note() -> str | None:
    distribution = _distribution()
    note = distribution.read_text(_NOTE) if distribution is not None else None
    return note.strip() if note else None
