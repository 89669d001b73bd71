"""The fill rule of golden_data.py makes the very weights the golden outputs were computed with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from golden_data import (
    cases,
    fill_sha256,
    fill_state_dict,
    fill_value,
    golden_input,
    load_case,
    max_relative_error,
)


def test_the_four_cases_lie_beside_the_tests() -> None:
    assert set(cases()) >= {
        "micro_224",
        "tiny_448_pool7",
        "tiny_64_grads",
        "backbone_tiny_interp_224x288",
    }


@pytest.mark.parametrize("name", cases())
def test_fill_agrees_with_the_file(name: str) -> None:
    case = load_case(name)
    state_dict = case.state_dict()
    assert list(state_dict) == sorted(state_dict)
    assert fill_sha256(state_dict) == str(case.arrays["fill_sha256"])
    assert sum(value.size for value in state_dict.values()) == int(case.arrays["n_params"])
    for value, first, total in zip(
        state_dict.values(), case.arrays["fill_first4"], case.arrays["fill_sums"], strict=True
    ):
        count = min(4, value.size)
        np.testing.assert_array_equal(value.reshape(-1)[:count], first[:count])
        assert math.isclose(value.sum(dtype=np.float64), total, rel_tol=1e-9, abs_tol=1e-9)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no line for 'norm1\.running_mean'"):
        fill_value("norm1.running_mean", (3,))
    with pytest.raises(ValueError, match="no golden case 'nano'"):
        load_case("nano")


def test_pairs_and_mappings_fill_alike() -> None:
    shapes = {"head.bias": (3,), "head.weight": (3, 2)}
    pairs, mapping = fill_state_dict(shapes.items()), fill_state_dict(shapes)
    assert list(pairs) == list(mapping) == list(shapes)
    for key, shape in shapes.items():
        assert pairs[key].dtype == np.float32
        assert pairs[key].shape == shape
        np.testing.assert_array_equal(pairs[key], mapping[key])


def test_errors_that_must_not_pass_are_infinite() -> None:
    case = load_case("backbone_tiny_interp_224x288")
    assert case.map_names == ["feat1", "feat2", "feat3", "feat4"]
    assert case.relative_error("feat4", np.zeros((2, 576, 7, 8))) == math.inf
    right_shape = np.zeros(tuple(case.arrays["feat4_shape"]))
    assert case.relative_error("feat4", right_shape) == math.inf
    first = np.full((1, *right_shape.shape[1:]), 1e3)
    assert case.relative_error("feat4", first) == math.inf
    assert 1 < case.relative_error("feat4", first, first_image_only=True) < math.inf
    assert max_relative_error(np.full(3, np.nan), np.ones(3)) == math.inf
    assert max_relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert golden_input(32, 48).shape == (2, 3, 32, 48)
