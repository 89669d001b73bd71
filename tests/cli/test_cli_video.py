"""Videos frame by frame: `detect` and `segment`, broken files, and times of frames."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from transnext_models import create_model
from transnext_models.images import ImageError
from transnext_models.video import VideoReader, VideoWriter

av = pytest.importorskip("av")

RATE = Fraction(30_000, 1001)
FRAMES, SIZE = 6, (61, 45)


def write_video(file: Path, frames: int = FRAMES, times=None) -> None:
    with open(file, "wb") as target:
        writer = VideoWriter(target, RATE)
        for index in range(frames):
            pixels = np.full((SIZE[1], SIZE[0], 3), 20 * index, np.uint8)
            pixels[10:30, 5 * index : 5 * index + 20] = (250, 40, 40)
            seconds = float(index / RATE) if times is None else times[index]
            writer.add(Image.fromarray(pixels), seconds)
        writer.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(file)
    return file


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    files = {}
    for task, name in (("detect", "maskrcnn"), ("segment", "upernet")):
        torch.manual_seed(0)
        model = create_model(f"{name}_transnext_pico")
        files[task] = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
        save_file(model.state_dict(), files[task])
    return files


def test_frames_and_their_times(video: Path) -> None:
    with VideoReader.opened(video) as opened:
        assert opened.rate == RATE
        assert opened.count == FRAMES
        frames = list(opened)
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.seconds for frame in frames] == pytest.approx(
        [float(index / RATE) for index in range(FRAMES)], abs=1e-4
    )
    for frame in frames:
        assert frame.image.size == (62, 46)  # made even
        ground = np.asarray(frame.image, int)[40, 5]
        assert abs(ground - 20 * frame.index).max() < 12


def test_uneven_times_are_kept(tmp_path) -> None:
    times = [0.0, 0.1, 0.5, 0.55, 2.0, 2.01]
    write_video(tmp_path / "uneven.mp4", times=times)
    with VideoReader.opened(tmp_path / "uneven.mp4") as opened:
        assert [frame.seconds for frame in opened] == pytest.approx(times, abs=1e-4)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_video_becomes_a_video_and_json(transnext, video, weights, tmp_path, task) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "clip.mp4").write_bytes(video.read_bytes())
    Image.new("RGB", (40, 40), "red").save(photos / "red.png")
    out = tmp_path / "out"
    result = transnext(task, photos, "--weights", weights[task], "--out", out, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert [Path(entry["file"]).name for entry in document["images"]] == ["red.png"]
    (entry,) = document["videos"]
    assert (entry["width"], entry["height"]) == (62, 46)
    assert entry["frame_rate"] == pytest.approx(float(RATE))
    assert [frame["frame"] for frame in entry["frames"]] == list(range(FRAMES))
    assert all(("objects" if task == "detect" else "classes") in one for one in entry["frames"])
    assert entry["video"] == str(out / "clip.mp4")
    with VideoReader.opened(out / "clip.mp4") as drawn:
        assert drawn.rate == RATE
        frames = list(drawn)
    assert len(frames) == FRAMES
    assert frames[1].seconds == pytest.approx(float(1 / RATE), abs=1e-4)
    assert min(frames[0].image.size) >= 300  # enlarged to be read


def test_text_says_what_is_in_how_many_frames(transnext, video, weights) -> None:
    result = transnext("segment", video, "--weights", weights["segment"])
    assert result.code == 0, result.err
    assert f"{FRAMES} frames" in result.out
    assert f"in {FRAMES} frames" in result.out


def test_broken_videos_name_file_and_frame(transnext, video, weights, tmp_path) -> None:
    content = bytearray(video.read_bytes())
    files = {"empty.mp4": b"", "text.mp4": b"no video" * 99, "cut.mp4": content[:900]}
    start = content.index(b"mdat") + 4
    # A length that no frame can have, in the middle of the frames.
    with av.open(str(video)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    place = packets[3].pos
    assert place > start
    content[place : place + 4] = b"\x7f\xff\xff\xff"
    files["damaged.mp4"] = bytes(content)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    out = tmp_path / "out"
    result = transnext(
        "detect", *(tmp_path / name for name in files), "--weights", weights["detect"],
        "--out", out, "--json",
    )  # fmt: skip
    assert result.code == 1
    document = json.loads(result.out)
    skipped = {Path(one["file"]).name: one["error"] for one in document["skipped"]}
    assert skipped.keys() == files.keys()
    for name in ("empty.mp4", "text.mp4", "cut.mp4"):
        assert skipped[name].startswith("no video that can be read")
    assert skipped["damaged.mp4"].startswith("frame ")
    assert not list(out.iterdir())
    assert "videos" not in document


def test_a_file_that_ends_too_soon(tmp_path, monkeypatch, video) -> None:
    with VideoReader.opened(video) as opened:
        opened.count = 99
        with pytest.raises(ImageError, match=f"frame {FRAMES}: the file ends here, and says it"):
            list(opened)


def test_without_pyav_there_is_a_hint(transnext, weights, video, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = transnext("detect", video, "--weights", weights["detect"], "--json")
    assert result.code == 1
    error = json.loads(result.out)["error"]
    assert "videos need the package av: pip install" in error
    assert "[video]" in error


def test_coco_s_results_are_of_images(transnext, weights, video, tmp_path) -> None:
    coco = tmp_path / "results.json"
    result = transnext("detect", video, "--weights", weights["detect"], "--coco-json", coco)
    assert result.code == 2
    assert "takes images, not videos" in result.err
    assert not coco.exists()
