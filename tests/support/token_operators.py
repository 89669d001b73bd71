"""The operators whose call is a TokenCase, with the check and the drawn cases of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st

from agreement import (
    check_conv_glu,
    check_gelu_pool,
    check_window_av,
    check_window_qk,
)
from norm_agreement import check_add_layer_norm
from strategies import TokenCase, dtypes, token_cases


@dataclass(frozen=True)
class TokenOperator:
    """An operator on tokens or windows."""

    name: str
    check: Callable[[TokenCase, str], None]
    channels: st.SearchStrategy[int] | None = None

    def cases(self, dtype: st.SearchStrategy[torch.dtype] = dtypes) -> st.SearchStrategy[TokenCase]:
        return token_cases(channels=self.channels, dtype=dtype)


token_operators = pytest.mark.parametrize(
    "operator",
    [
        TokenOperator("window_qk", check_window_qk),
        TokenOperator("window_av", check_window_av),
        TokenOperator("conv_glu", check_conv_glu, st.sampled_from((24, 1, 5, 8, 33, 72))),
        TokenOperator("gelu_pool", check_gelu_pool),
        TokenOperator("add_layer_norm", check_add_layer_norm),
    ],
    ids=lambda operator: operator.name,
)
