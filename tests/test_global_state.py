"""What a test changes of the process's global state is undone after it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import transnext_ops as ops
from global_state import preserved

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[1]
MATMUL: Any = torch.backends.cuda.matmul
needs_fp32_precision = pytest.mark.skipif(
    not hasattr(MATMUL, "fp32_precision"), reason="this PyTorch has allow_tf32 alone"
)


def set_attribute(owner: Any, name: str, value: object) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def state() -> dict[str, object]:
    """Read all that the cases below change, by PyTorch's public names."""
    return {
        "precision": torch.get_float32_matmul_precision(),
        "allow_tf32": MATMUL.allow_tf32,
        "fp32_precision": [
            owner.fp32_precision
            for owner in (
                torch.backends,
                MATMUL,
                getattr(torch.backends.mkldnn, "matmul", None),
                getattr(torch.backends.mkldnn, "conv", None),
            )
            if hasattr(owner, "fp32_precision")
        ],
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "backend": ops.get_backend(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


CHANGES: dict[str, Callable[[], object]] = {
    "every product's precision": lambda: torch.set_float32_matmul_precision("medium"),
    "TF32": set_attribute(MATMUL, "allow_tf32", True),
    "cuDNN": set_attribute(torch.backends.cudnn, "benchmark", True),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "grad": lambda: torch._C._set_grad_enabled(False),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "backend": lambda: ops.set_backend("torch"),
    "new variable": lambda: os.environ.update(TRANSNEXT_TEST="1"),
    "lost variable": lambda: os.environ.pop("PATH"),
    "folder": lambda: os.chdir("/"),
}
NEW_CHANGES: dict[str, Callable[[], object]] = {
    "all backends": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "CUDA": lambda: setattr(MATMUL, "fp32_precision", "tf32"),
    "oneDNN": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "oneDNN's convolutions": lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
}


@pytest.mark.parametrize(
    "change",
    [
        *(pytest.param(change, id=name) for name, change in CHANGES.items()),
        *(
            pytest.param(change, id=name, marks=needs_fp32_precision)
            for name, change in NEW_CHANGES.items()
        ),
    ],
)
def test_a_change_is_undone(change: Callable[[], object]) -> None:
    before = state()
    with preserved():
        change()
        try:
            seen = state()
        except RuntimeError:  # set in two ways: PyTorch refuses to read it
            seen = {}
        assert seen != before
    assert state() == before


def test_it_is_undone_after_a_failure() -> None:
    before = state()
    with suppress(KeyError), preserved():
        torch.set_float32_matmul_precision("medium")
        raise KeyError
    assert state() == before


@needs_fp32_precision
def test_settings_mixed_in_both_ways_can_be_read_again() -> None:
    before = state()
    with preserved():
        torch.set_float32_matmul_precision("medium")
        MATMUL.allow_tf32 = False
        MATMUL.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
    assert state() == before


def numbers() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002


def test_random_numbers_start_anew() -> None:
    with preserved():
        first = numbers()
        assert numbers() != first
    with preserved():
        assert numbers() == first


def test_a_function_may_be_compiled_in_every_test() -> None:
    """Compiled versions of other tests do not count against the limit of recompilations."""
    function = torch.compile(lambda x, n: x + n, backend="eager", fullgraph=True, dynamic=False)
    for n in range(20):
        with preserved():
            assert function(torch.zeros(1), n) == n


def test_it_costs_less_than_a_millisecond() -> None:
    durations = []
    for _ in range(20):
        begin = time.perf_counter()
        with preserved():
            pass
        durations.append(time.perf_counter() - begin)
    assert min(durations) < 1e-3


PROBE = """
import sys, pytest, torch
def settings():
    mkldnn = getattr(torch.backends.mkldnn, "matmul", None)
    return torch.get_float32_matmul_precision(), getattr(mkldnn, "fp32_precision", None)
before = settings()
assert pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]) == 0
assert settings() == before, settings()
"""


def test_the_precisions_own_tests_leave_nothing_behind() -> None:
    arguments = [sys.executable, "-c", PROBE, "tests/ops/test_ops_matmul_precision.py"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


WORKER = """
import os, sys
names = "OMP_WAIT_POLICY", "OMP_NUM_THREADS"
for name in names:
    os.environ.pop(name, None)
os.environ.update(pair.split("=") for pair in sys.argv[1:])
import conftest
assert "torch" not in sys.modules
print(*(os.environ.get(name) for name in names))
"""


def openmp_settings(*environment: str) -> list[str]:
    """Return what OpenMP is told in a process of the tests with these variables."""
    path = os.pathsep.join((str(ROOT / "tests"), str(ROOT / "tests" / "support")))
    return subprocess.run(
        [sys.executable, "-c", WORKER, *environment],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip


def test_parallel_workers_share_the_processor() -> None:
    """Set before torch is loaded, and without overriding what the user has set."""
    alone, two = "PYTEST_XDIST_WORKER_COUNT=1", "PYTEST_XDIST_WORKER_COUNT=2"
    assert openmp_settings(alone) == ["None", "None"]
    assert openmp_settings(two) == ["PASSIVE", str(max(1, (os.cpu_count() or 1) // 2))]
    own = ("OMP_WAIT_POLICY=ACTIVE", "OMP_NUM_THREADS=3")
    assert openmp_settings(two, *own) == ["ACTIVE", "3"]


def test_what_looks_back_runs_last_in_any_order(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = after_its_module")
    conftest = str(ROOT / "tests" / "conftest.py")
    pytester.makeconftest(
        "import importlib.util, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'tests' / 'support')!r})\n"
        f"spec = importlib.util.spec_from_file_location('root', {conftest!r})\n"
        "root = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(root)\n"
        "pytest_collection_modifyitems = root.pytest_collection_modifyitems\n"
    )
    pytester.makepyfile(
        "import pytest\n"
        "seen = []\n"
        "@pytest.mark.after_its_module\n"
        "def test_a():\n"
        "    assert sorted(seen) == list('bcd')\n"
        + "".join(f"def test_{name}():\n    seen.append('{name}')\n" for name in "bcd")
    )
    for seed in range(3):
        options = ("-p", "randomly", f"--randomly-seed={seed}", "-p", "no:cacheprovider")
        pytester.runpytest_inprocess(*options).assert_outcomes(passed=4)
