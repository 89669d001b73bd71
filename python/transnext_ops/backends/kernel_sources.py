"""Where the CUDA kernels' source is, for compilation at run time.

An installed package has it in ``transnext_ops/kernels``; a checkout's package (also an editable
install) reads the checkout's ``cpp`` folder.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parents[1]


@functools.cache
def folders() -> tuple[Path, ...] | None:
    """Return the include folders (of ``cuda/...`` and ``transnext/...``), None if missing."""
    for folder in (_CHECKOUT / "cpp", _PACKAGE / "kernels"):
        include = folder / "include"
        if (folder / "cuda" / "kernels").is_dir() and (include / "transnext").is_dir():
            return folder, include
    return None


@functools.cache
def digest() -> str:
    """Return what changes whenever a kernel or a header that it may include does."""
    found = folders() or ()
    hashed = hashlib.sha256()
    for below in ("cuda/kernels", "transnext"):
        for folder in found:
            for path in sorted((folder / below).rglob("*")):
                if path.suffix in (".cuh", ".h"):
                    hashed.update(path.name.encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


def kernel_names() -> dict[str, tuple[str, ...]]:
    """Return the instances that exist, ``gelu_pool_forward<Half>`` and so on, by list."""
    (folder, *_) = folders() or (Path(),)
    begin, end = "TRANSNEXT_KERNEL(", ")"
    return {
        path.stem: tuple(
            line[len(begin) : -len(end)]
            for line in path.read_text().splitlines()
            if line.startswith(begin)
        )
        for path in sorted((folder / "cuda" / "instances").glob("*.inc"))
    }
