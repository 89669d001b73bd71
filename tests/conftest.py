"""For all tests: Hypothesis profiles, shares of the processor, and global state restored."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from global_state import preserved

_COMMON = {
    "deadline": None,  # timings on shared machines say nothing
    "suppress_health_check": [HealthCheck.too_slow],
    "print_blob": True,
}
settings.register_profile("ci", max_examples=30, derandomize=True, **_COMMON)
settings.register_profile("quick", max_examples=10, **_COMMON)
settings.register_profile("long", max_examples=1000, **_COMMON)
# Whether a case fails, not which is the smallest (tests/emulation/mutations.py).
settings.register_profile(
    "find", phases=[Phase.explicit, Phase.generate], derandomize=True, **_COMMON
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    # Each worker of pytest-xdist takes its share of the cores, and threads that wait sleep: an
    # OpenMP team that spins on cores which other workers hold is ten times slower. Set here,
    # because OpenMP reads both once, when torch is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    """Let no test see what another one has set: threads, precision, backend, environment, ..."""
    with preserved():
        # Meant for this run of pytest, not for those that tests start.
        os.environ.pop("PYTEST_ADDOPTS", None)
        yield


@pytest.fixture
def one_thread() -> None:
    """Compute on one thread: small batches would mostly wait for more."""
    importlib.import_module("torch").set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests marked ``after_its_module`` run after the others of their file, in any order."""
    last: dict[str, int] = {item.nodeid.partition("::")[0]: i for i, item in enumerate(items)}
    after = [item for item in items if item.get_closest_marker("after_its_module")]
    behind: dict[int, list[pytest.Item]] = {}
    for item in after:
        behind.setdefault(last[item.nodeid.partition("::")[0]], []).append(item)
    ordered = []
    for i, item in enumerate(items):
        if item not in after:
            ordered.append(item)
        ordered += behind.get(i, [])
    items[:] = ordered
