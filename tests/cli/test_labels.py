"""Names of classes, from what is installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from transnext_models.classification import labels
from transnext_models.classification.labels import class_names


@pytest.fixture(autouse=True)
def fresh():
    labels._imagenet_1k.cache_clear()
    yield
    labels._imagenet_1k.cache_clear()


def test_digits():
    assert class_names("digits", 10) == list("0123456789")


def test_imagenet_names_come_from_timm_without_importing_it():
    pytest.importorskip("timm")
    loaded = set(sys.modules)
    names = class_names("imagenet_1k", 1000)
    assert set(sys.modules) == loaded
    assert len(names) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


def test_imagenet_names_without_timm(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert class_names("imagenet_1k", 1000)[123] == "class 123"


@pytest.mark.parametrize(("name", "count"), [("digits", 7), ("imagenet_1k", 10), ("unknown", 3)])
def test_other_counts_and_lists_have_numbers(name, count):
    assert class_names(name, count) == [f"class {index}" for index in range(count)]
