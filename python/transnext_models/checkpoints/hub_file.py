"""Name a file on the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_REVISION = "main"

# Of a repository's name, a revision or a file's path: what stands between two slashes. The cache
# makes paths of them.
_PART = re.compile(r"(?!\.{1,2}$)[\w.+ -]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the Hugging Face Hub.

    Raises
    ------
    ValueError
        If one of the names could lead out of the cache's folder.
    """

    repo: str
    file: str
    revision: str = DEFAULT_REVISION

    def __post_init__(self) -> None:
        for what, name in (
            ("a repository", self.repo),
            ("a file in a repository", self.file),
            ("a revision", self.revision),
        ):
            if not all(map(_PART.fullmatch, name.split("/"))):
                raise ValueError(f"weights: got {name!r}, needs the name of {what} on the Hub")
        if self.repo.count("/") != 1:
            raise ValueError(f"weights: got repository {self.repo!r}, needs owner/name")

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, self.file, revision=self.revision)

    def __str__(self) -> str:
        return f"{self.file} of {self.repo}"
