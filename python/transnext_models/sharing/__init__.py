"""Models as folders and repositories: weights, a ``config.json`` as timm writes it, and a card."""

from .config import SharedConfig, pretrained_config, read_config
from .mixin import Shareable
from .source import is_shared, open_shared

__all__ = [
    "Shareable",
    "SharedConfig",
    "is_shared",
    "open_shared",
    "pretrained_config",
    "read_config",
]
