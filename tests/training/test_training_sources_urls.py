"""Shards at URLs: a connection that breaks off is taken up again, or named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from requirements import needs
from training.faulty_server import FaultyServer, serving
from training.image_layouts import noise, write_shards
from transnext_models.training.sources import steady_file
from transnext_models.training.sources.lanes import Lanes
from transnext_models.training.sources.steady_file import SteadyFile
from transnext_models.training.sources.tar_members import ArchiveError, Readable

pytestmark = needs("fsspec", "aiohttp")

CONTENT = bytes(range(256)) * 40_000  # two of fsspec's blocks of 5 MiB


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady_file, "_PAUSES", (0.0,) * 5)


@pytest.fixture(params=[True, False], ids=["ranges", "whole files"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FaultyServer]:
    (tmp_path / "file").write_bytes(CONTENT)
    with serving(tmp_path, request.param) as faulty:
        yield faulty


def whole(file: Readable, count: int = 1 << 20) -> bytes:
    return b"".join(iter(lambda: file.read(count), b""))


def test_a_file_is_read_to_its_end(server: FaultyServer) -> None:
    with SteadyFile(f"{server.url}/file") as file:
        assert whole(file) == CONTENT


@pytest.mark.parametrize("drops", [[0], [70_000], [70_000, 0, 1_000_000, 5], [0, 0, 0, 0, 0]])
def test_it_is_read_on_where_it_broke_off(
    server: FaultyServer, drops: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    server.drops[:] = drops
    with SteadyFile(f"{server.url}/file") as file:
        assert whole(file) == CONTENT
    assert server.drops == []
    said = capfd.readouterr().err
    assert len(re.findall(rf"{server.url}/file: broke off at byte [\d,]+ \(.*\); reading on", said))


def test_nothing_is_read_twice_where_a_server_gives_parts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    with serving(tmp_path) as server, SteadyFile(f"{server.url}/file") as file:
        assert file.read(6_000_000) == CONTENT[:6_000_000]
        before = len(server.requests)
        server.drops[:] = [10]
        file._file.cache.cache = b""  # nothing that fsspec still has
        assert whole(file) == CONTENT[6_000_000:]
    assert all(int(asked[6:].split("-")[0]) >= 6_000_000 for asked in server.requests[before:])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(server: FaultyServer, status: int) -> None:
    server.statuses[:] = [status, status]
    with SteadyFile(f"{server.url}/file") as file:
        assert whole(file) == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(server: FaultyServer, status: int) -> None:
    server.statuses[:] = [status] * 9
    with (
        SteadyFile(f"{server.url}/file") as file,
        pytest.raises(ArchiveError, match=rf"{server.url}/file: cannot be read \("),
    ):
        file.read(10)
    assert len(server.statuses) >= 7  # fsspec asks twice where HEAD has told it a size


def test_a_connection_that_breaks_off_for_ever_is_given_up(server: FaultyServer) -> None:
    server.drops[:] = [0] * 1000
    with (
        SteadyFile(f"{server.url}/file") as file,
        pytest.raises(ArchiveError, match=r"/file: cannot be read beyond byte 0, in 6 attempts \("),
    ):
        whole(file)


def test_a_file_that_has_changed_is_not_read_on(server: FaultyServer) -> None:
    with SteadyFile(f"{server.url}/file") as file:
        file.read(10)
        (server.folder / "file").write_bytes(CONTENT[:-1])
        file._close()  # as after a break
        with pytest.raises(ArchiveError, match=r"has changed while it was read: 10,239,999 bytes"):
            file.read(10)


def test_a_file_that_ends_too_early_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a library takes the end of a connection for that of the file."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/early/file", CONTENT)
    opened = memory.open

    class Early:
        size = len(CONTENT)

        def __init__(self) -> None:
            self._file, self._left = opened("/early/file"), 1_000_000

        def read(self, count: int) -> bytes:
            content: bytes = self._file.read(min(count, self._left))
            self._left -= len(content)
            return content

        def seek(self, position: int) -> None:
            self._file.seek(position)

        def close(self) -> None:
            self._file.close()

    class Opened:
        def open(self) -> Early:
            return Early()

    monkeypatch.setattr(fsspec, "open", lambda *_: Opened())
    with SteadyFile("memory://early/file") as file:
        assert whole(file, 300_000) == CONTENT
    memory.rm("/early", recursive=True)


def test_batches_are_the_same_over_a_bad_connection(tmp_path: Path, server: FaultyServer) -> None:
    content = noise(["ant", "bee", "cat"], train=20, val=1, side=40)
    write_shards(content["train"], server.folder, "train", 20)
    shards = sorted(path.name for path in server.folder.glob("train-*.tar"))
    local = Lanes([f"pipe:cat {server.folder}/{name}" for name in shards], 3, 4)
    remote = Lanes([f"{server.url}/{name}" for name in shards], 3, 4)
    for batch in range(12):
        server.drops[:] = [4_000, 12_000]
        expected, found = local.batch(0, batch), remote.batch(0, batch)
        assert [each.content for each in expected] == [each.content for each in found]
    remote.close()
    assert any(server.requests)


def test_a_shard_that_stays_out_of_reach_names_itself(server: FaultyServer) -> None:
    write_shards(noise(["ant"], train=3, val=1, side=40)["train"], server.folder, "train", 1)
    server.drops[:] = [600] * 1000
    url = f"{server.url}/train-000000.tar"
    with pytest.raises(ArchiveError, match=f"{url}: cannot be read beyond byte"):
        Lanes([url], 3, 2).batch(0, 0)
