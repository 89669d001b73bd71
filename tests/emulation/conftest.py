"""The emulation, built on demand; see emulation_build.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from emulated import Library
from emulation_build import Emulation


def _library(**choices) -> Library:
    emulation = Emulation(**choices)
    if shutil.which(emulation.compiler) is None:
        pytest.skip(f"no C++ compiler: {emulation.compiler} is not on PATH")
    return Library(emulation.build())


@pytest.fixture(scope="session")
def kernels() -> Library:
    """The emulation with all operators' kernels, from another source tree where
    TRANSNEXT_EMULATION_SOURCE names its `cpp` folder (mutations.py)."""
    source = os.environ.get("TRANSNEXT_EMULATION_SOURCE")
    if source is None:
        return _library()
    return _library(cpp=Path(source), warnings_are_errors=False)


@pytest.fixture(
    scope="session", params=["", "-DTRANSNEXT_EMULATION_UCONTEXT"], ids=["assembly", "ucontext"]
)
def small_kernels(request) -> Library:
    """The emulation with the kernels of its own tests, by each way to switch between threads."""
    sources = [Path(__file__).parent / "test_kernels.cpp"]
    return _library(extra_sources=sources, operators=[], flags=request.param.split())
