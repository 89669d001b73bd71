"""Settings of all tests: Hypothesis profiles, and a clean choice of backend for each test."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, Phase, settings

_COMMON = {
    "deadline": None,  # timings on shared machines say nothing
    "suppress_health_check": [HealthCheck.too_slow],
    "print_blob": True,
}
settings.register_profile("ci", max_examples=40, derandomize=True, **_COMMON)
settings.register_profile("quick", max_examples=10, **_COMMON)
settings.register_profile("long", max_examples=1000, **_COMMON)
# Whether a case fails, not which is the smallest (tests/emulation/mutations.py).
settings.register_profile(
    "find", phases=[Phase.explicit, Phase.generate], derandomize=True, **_COMMON
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def _share_of_the_processor():
    """With pytest-xdist, give each worker its share of the cores: an OpenMP team on a core that
    another process holds waits for it at every loop."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        torch = pytest.importorskip("torch")
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(autouse=True)
def _default_backend():
    """Let no test see the backend choice of another one."""
    # The reference's tests run without torch; where the package is not loaded, nothing was chosen.
    before = _choices()
    yield
    process, thread = before or (None, None)
    if (registry := sys.modules.get(_REGISTRY)) is not None:
        registry._process.name, registry._thread.name = process, thread


_REGISTRY = "transnext_ops.backends.registry"


def _choices() -> tuple[str | None, str | None] | None:
    registry = sys.modules.get(_REGISTRY)
    return None if registry is None else (registry._process.name, registry._thread.name)
