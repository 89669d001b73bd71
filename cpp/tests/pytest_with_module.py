"""Runs pytest with another compiled library instead of the installed one.

    python cpp/tests/pytest_with_module.py path/to/_cpp.so [pytest's arguments]
    python cpp/tests/pytest_with_module.py path/to/_cpp.so --overrun

The second form reads behind a tensor's memory, which a library under AddressSanitizer must report.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(path: str) -> ModuleType:
    """Make the extension module at `path` be ``transnext_ops._cpp``, however that is installed."""
    name = "transnext_ops._cpp"
    spec = importlib.util.spec_from_file_location(name, Path(path).resolve())
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: is no extension module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    from transnext_ops.backends import cpp_backend

    if cpp_backend._cpp is not module:
        raise SystemExit(f"{path}: transnext_ops has loaded another one")
    return module


def overrun() -> None:
    """Pool tokens whose memory ends before they do."""
    import torch

    import transnext_ops

    x = torch.ones(2, 400, 64)
    x.untyped_storage().resize_(4)
    transnext_ops.gelu_pool(x, grid=(20, 20), pool_grid=(2, 2), backend="cpp")


if __name__ == "__main__":
    load(sys.argv[1])
    if sys.argv[2:] == ["--overrun"]:
        overrun()
    else:
        import pytest

        raise SystemExit(pytest.main(sys.argv[2:]))
