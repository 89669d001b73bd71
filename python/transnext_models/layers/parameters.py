"""What the names of parameters imply: no weight decay, and depth in the network."""

from __future__ import annotations

from typing import Any

__all__ = ["NO_WEIGHT_DECAY", "depth_patterns"]

# Parts of the names that the published recipe leaves without weight decay. Biases and other
# one-dimensional parameters, which every recipe leaves out, are not all among them.
NO_WEIGHT_DECAY = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature")


def depth_patterns(coarse: bool = False) -> dict[str, Any]:
    """Regular expressions that order parameters by depth, as timm's ``group_matcher`` gives them.

    Parameters
    ----------
    coarse : bool
        One group for each stage instead of one for each block.
    """
    blocks: Any = r"^(?:patch_embed|block|norm)(\d+)"
    if not coarse:
        blocks = [
            (r"^patch_embed(\d+)", (-1,)),
            (r"^block(\d+)\.(\d+)", None),
            (r"^norm(\d+)", (99999,)),
        ]
    return {"stem": r"^patch_embed1\.", "blocks": blocks}
