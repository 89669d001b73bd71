"""Forked children run the operators whatever their parent had run: each case in a fresh process.

PyTorch's own OpenMP threads do not survive a fork, so children of a process that used them must
not: theirs is the library's own pool. Random numbers are drawn on one thread, other large tensors
are not made in a child.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("transnext_ops._cpp")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PRELUDE = """
import os, sys, threading, time
import torch

X = torch.randn(1, 64 * 64, 64)

def use_torch():
    torch.set_num_threads(2)
    torch.ones(4_000_000).exp().sum()

def use_operators(backend="cpp"):
    import transnext_ops as ops
    torch.set_num_threads(2)
    x = X.detach().requires_grad_()
    ops.gelu_pool(x, grid=(64, 64), pool_grid=(4, 4), backend=backend).sum().backward()
    assert x.grad[0, :8].isfinite().all()

def in_child(function, seconds=60):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"child ended with {status}"
            return
        time.sleep(0.01)
    os.kill(child, 9)
    raise SystemExit("the child hangs")
"""
CASES = {
    "imported, not run, and torch has run": """
        import transnext_ops
        use_torch()
        in_child(use_operators)
    """,
    "imported by the child": """
        use_torch()
        in_child(use_operators)
    """,
    "run by both": """
        use_operators()
        in_child(use_operators)
        use_operators()
    """,
    "children of children": """
        use_operators()
        in_child(lambda: (use_operators(), in_child(use_operators), use_operators()))
    """,
    "forked by a thread while others run": """
        import transnext_ops as ops
        torch.set_num_threads(2)
        stop = False
        def busy():
            torch.set_num_threads(2)
            while not stop:
                use_operators()
        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        failures = []
        def fork():
            try:
                for _ in range(5):
                    in_child(use_operators)
            except BaseException as error:
                failures.append(error)
        forking = threading.Thread(target=fork)
        forking.start()
        forking.join()
        stop = True
        for thread in threads:
            thread.join()
        assert not failures, failures
    """,
    "workers of a DataLoader": """
        import transnext_ops as ops
        use_operators()
        class Pooled(torch.utils.data.Dataset):
            def __len__(self):
                return 6
            def __getitem__(self, index):
                return ops.gelu_pool(X, grid=(64, 64), pool_grid=(4, 4), backend="cpp")[0]
        loader = torch.utils.data.DataLoader(
            Pooled(), num_workers=2, batch_size=2, multiprocessing_context="fork", timeout=60
        )
        assert len(list(loader)) == 3
    """,
    "a multiprocessing pool": """
        import multiprocessing
        import transnext_ops as ops
        use_operators()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.apply_async(use_operators).get(60)
    """,
}


@pytest.mark.parametrize("case", CASES)
def test_a_forked_child(case: str) -> None:
    code = PRELUDE + textwrap.dedent(CASES[case])
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
