"""What ``import transnext_ops`` brings with it: PyTorch, and not its compilers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from transnext_ops.tracing import constant_in_graphs

_COMPILERS = ("torch._dynamo", "torch._inductor", "sympy")


@pytest.mark.parametrize(
    "statement",
    [
        "import transnext_ops",
        "from transnext_ops.compat import swattention",
        # An eager call needs no compiler either.
        "import torch, transnext_ops as ops; x = torch.zeros(1, 4, 6, requires_grad=True); "
        "ops.gelu_pool(x, grid=(2, 2), pool_grid=(1, 1)).sum().backward()",
    ],
)
def test_the_compilers_stay_out(statement: str) -> None:
    code = (
        f"import sys, torch; before = set(sys.modules); {statement}; "
        f"print(*(name for name in {_COMPILERS} if name in set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_constants_are_marked_as_pytorch_marks_them() -> None:
    def ours() -> None:
        """Do nothing."""

    def theirs() -> None:
        """Do nothing."""

    assert vars(constant_in_graphs(ours)) == vars(torch.compiler.assume_constant_result(theirs))
