"""Feature maps of a model, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["FeatureInfo", "take_indices"]


def take_indices(count: int, indices: int | Sequence[int] | None, name: str) -> tuple[int, ...]:
    """Resolve a choice among ``count`` maps to indices from the first.

    ``None`` takes all, an int the last so many, a sequence those (negative ones from the end).

    Raises
    ------
    ValueError
        If the choice is empty or out of range; ``name`` is the argument's name.
    """
    if indices is None:
        return tuple(range(count))
    if isinstance(indices, int) and not isinstance(indices, bool):
        if not 0 < indices <= count:
            raise ValueError(f"{name}: got {indices}, needs the last 1 to {count} maps")
        return tuple(range(count - indices, count))
    if not isinstance(indices, Sequence) or isinstance(indices, str):
        raise ValueError(f"{name}: got {indices!r}, needs an int or a sequence of ints")
    if not indices:
        raise ValueError(f"{name}: got {indices!r}, needs at least one index")
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise ValueError(f"{name}: got {indices!r}, needs an int or a sequence of ints")
        if not -count <= index < count:
            raise ValueError(f"{name}: got {index}, needs indices from {-count} to {count - 1}")
    return tuple(index % count for index in indices)


class FeatureInfo(list[dict[str, Any]]):
    """Describes a model's maps: one dict per stage with ``num_chs``, ``reduction``, ``module``.

    A plain list as timm's models have it, with the accessors of timm's feature backbones, which
    answer for the maps in ``out_indices``.
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        super().__init__(info)
        self.out_indices = tuple(out_indices)

    @classmethod
    def of_stages(cls, widths: Sequence[int], out_indices: Sequence[int]) -> FeatureInfo:
        """Describe the maps of stages of these widths, each at half the resolution of the last."""
        return cls(
            [
                {"num_chs": width, "reduction": 4 * 2**i, "module": f"norm{i + 1}"}
                for i, width in enumerate(widths)
            ],
            out_indices,
        )

    def get_dicts(self, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the dicts of the maps in ``out_indices``, with these keys only if named."""
        taken = [self[index] for index in self.out_indices]
        return taken if keys is None else [{key: info[key] for key in keys} for info in taken]

    def channels(self) -> list[int]:
        """Return the channels of each map."""
        return [self[index]["num_chs"] for index in self.out_indices]

    def reduction(self) -> list[int]:
        """Return the stride of each map with respect to the image."""
        return [self[index]["reduction"] for index in self.out_indices]

    def module_name(self) -> list[str]:
        """Return the name of the module that ends each map's stage."""
        return [self[index]["module"] for index in self.out_indices]
