"""The assignment of least cost between predictions and what is annotated."""

from __future__ import annotations

import torch
from torch import Tensor

from transnext_ops.distribution import install_hint

__all__ = ["assign"]


@torch.no_grad()
def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Return the one-to-one assignment of least total cost.

    Source: Crouse, "On implementing 2D rectangular assignment algorithms", IEEE TAES 2016, as in
    SciPy.

    Parameters
    ----------
    cost : Tensor
        ``[predictions, targets]``. NaN and infinity count as 10⁶, so that a broken prediction is
        matched last.

    Returns
    -------
    tuple of Tensor
        Matched predictions, ascending, and their targets; int64 on the cost's device.

    Raises
    ------
    ModuleNotFoundError
        Without SciPy, which the extra ``dense`` brings.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"scipy: got none, needs it for training: {install_hint('dense')}"
        ) from error
    table = torch.nan_to_num(cost.float(), nan=1e6, posinf=1e6, neginf=-1e6)
    rows, columns = linear_sum_assignment(table.cpu().numpy())
    device = cost.device
    return (
        torch.as_tensor(rows, dtype=torch.int64, device=device),
        torch.as_tensor(columns, dtype=torch.int64, device=device),
    )
