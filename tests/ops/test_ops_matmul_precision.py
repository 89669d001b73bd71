"""PyTorch's setting for TF32, in all the ways that it can be set."""

from __future__ import annotations

import warnings
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from transnext_ops.backends.matmul_precision import tf32, tf32_allowed

MATMUL: Any = torch.backends.cuda.matmul
needs_new_setting = pytest.mark.skipif(
    not hasattr(MATMUL, "fp32_precision"), reason="this PyTorch has allow_tf32 alone"
)


def test_it_is_not_allowed_unless_asked_for() -> None:
    assert not tf32_allowed()


def test_the_first_setting() -> None:
    MATMUL.allow_tf32 = True
    assert tf32_allowed()
    MATMUL.allow_tf32 = False
    assert not tf32_allowed()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_precision_of_all_products(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    assert tf32_allowed() == (precision != "highest")


@needs_new_setting
def test_the_second_setting() -> None:
    MATMUL.fp32_precision = "tf32"
    assert tf32_allowed()
    MATMUL.fp32_precision = "ieee"
    assert not tf32_allowed()
    MATMUL.fp32_precision = "none"  # what all backends have
    torch.backends.fp32_precision = "tf32"
    assert tf32_allowed()


@needs_new_setting
def test_both_settings_mixed_neither_raise_nor_warn() -> None:
    MATMUL.allow_tf32 = True
    MATMUL.fp32_precision = "ieee"
    with pytest.raises(RuntimeError, match="mix"):
        _ = MATMUL.allow_tf32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not tf32_allowed()
    MATMUL.fp32_precision = "tf32"
    assert tf32_allowed()


def test_pytorch_before_the_second_setting(monkeypatch) -> None:
    old = SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch.backends.cuda, "matmul", old)
    assert not tf32_allowed()
    with tf32(True):
        assert old.allow_tf32
        assert tf32_allowed()
    assert not old.allow_tf32


def test_it_is_restored() -> None:
    for allowed in (True, False):
        with suppress(KeyError), tf32(allowed):
            assert tf32_allowed() == allowed
            raise KeyError
        assert not tf32_allowed()
