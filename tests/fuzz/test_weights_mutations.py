"""Mutated weights files are read or refused, whatever the mutation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from weights_corpus import weights_files
from weights_mutations import numbered
from weights_oracle import examine, library_agrees

from measured_calls import MB, measured, needs_proc

FOUND = Path(__file__).parent / "found"
# More of them: TRANSNEXT_WEIGHT_MUTATIONS=1000000 pytest tests/fuzz
COUNT = int(os.environ.get("TRANSNEXT_WEIGHT_MUTATIONS", "20000"))
_AT_A_TIME = 500
SETUP = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]!r}
import torch
torch.set_num_threads(1)
from weights_oracle import examine_mutations
"""


@pytest.mark.parametrize("name", weights_files())
def test_what_mutations_start_from_is_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(weights_files()[name])
    assert examine(path) == "read"
    if name.endswith("safetensors"):
        library_agrees(path)


def test_mutations_are_the_same_for_the_same_number():
    files = weights_files()
    first = [numbered(files, number) for number in range(50)]
    assert first == [numbered(files, number) for number in range(50)]
    assert len(set(first)) > 45


@needs_proc
@pytest.mark.long
@pytest.mark.slow
def test_mutations():
    """In processes of their own: none ends one, waits, or takes more memory than it may."""
    calls = [
        f"examine_mutations({first}, {min(_AT_A_TIME, COUNT - first)})"
        for first in range(0, COUNT, _AT_A_TIME)
    ]
    read = refused = 0
    for outcome in measured(SETUP, calls, seconds=300):
        assert not outcome.error, outcome
        # What is left behind by hundreds of files, too.
        assert outcome.memory < 64 * MB, outcome
        counts = outcome.value.split()
        read, refused = read + int(counts[0]), refused + int(counts[1])
    assert read + refused == COUNT
    # Mutations that are all refused at once would test nothing.
    assert 0.05 * COUNT < read < 0.95 * COUNT


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_was_found_before(tmp_path, path):
    """Files that the fuzzers once found a fault with."""
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    examine(copy)
