"""What the stand-in for the Hub serves as weights, which are only downloaded, not read."""

from __future__ import annotations

import os

CONTENT = os.urandom(300_000)
