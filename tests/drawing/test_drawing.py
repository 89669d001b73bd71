"""Tags beside their boxes, canvases for any size, legends, and pictures of objects."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from transnext_models.dense.classes import category_ids, class_colours, class_names
from transnext_models.dense.run_lengths import RunLengths
from transnext_models.detecting import DetectedObject
from transnext_models.detecting.pictures import draw_objects
from transnext_models.drawing.canvas import Canvas
from transnext_models.drawing.legend import LegendEntry, with_legend
from transnext_models.drawing.tags import place_tags
from transnext_models.drawing.text import font_for, ink_on, text_size


def overlap(one, other) -> float:
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    return max(0.0, sides[0]) * max(0.0, sides[1])


@pytest.mark.parametrize("seed", range(20))
def test_tags_stay_inside_and_hide_little_of_each_other(seed: int) -> None:
    generator = np.random.default_rng(seed)
    corners = generator.uniform(-20, 580, (40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(1, 150, (40, 2))], 1)
    sizes = [[(90, 18), (60, 14)] for _ in boxes]
    places = place_tags([tuple(box) for box in boxes], sizes, (640, 480))
    tags = []
    for place in places:
        if place is not None:
            form, (left, top) = place
            width, height = sizes[0][form]
            assert 0 <= left <= 640 - width
            assert 0 <= top <= 480 - height
            tags.append((left, top, left + width, top + height))
    assert len(tags) > 10
    for index, tag in enumerate(tags):
        area = (tag[2] - tag[0]) * (tag[3] - tag[1])
        assert sum(overlap(tag, other) for other in tags[:index]) < 0.2 * area


def test_a_tag_leaves_the_small_object_above_free() -> None:
    boxes = [(100.0, 100.0, 300.0, 300.0), (100.0, 80.0, 120.0, 98.0)]
    large, _ = place_tags(boxes, [[(80, 20)], [(80, 20)]], (400, 400))
    left, top = large[1]
    assert overlap((left, top, left + 80, top + 20), boxes[1]) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (32, 32), (479, 300), (3000, 2000)])
def test_canvases_have_room_for_letters(size) -> None:
    image = Image.new("RGB", size, "white")
    canvas = Canvas.of(image)
    assert canvas.picture.width >= 16 * canvas.letters
    assert canvas.picture.height >= 5 * canvas.letters
    assert canvas.letters >= 13
    left, top, right, bottom = canvas.box((0, 0, *size))
    assert (right - left, bottom - top) == tuple(canvas.factor * side for side in size)
    assert canvas.picture.getpixel((int(left), int(top))) == (255, 255, 255)
    assert image.size == size


def test_colours_of_classes_can_be_told_apart_and_read() -> None:
    colours = class_colours(class_names(80)).astype(int)
    assert len(np.unique(colours, axis=0)) == 80
    luminance = colours @ np.array([0.3, 0.59, 0.11]) / 255
    assert luminance.min() > 0.3  # seen on dark images
    assert ink_on((255, 255, 0)) == (16, 16, 16)
    assert ink_on((40, 0, 200)) == (255, 255, 255)


def test_coco_s_numbers() -> None:
    ids = category_ids(class_names(80))
    assert (ids[0], ids[11], ids[79]) == (1, 13, 90)
    assert len(set(ids)) == 80
    assert category_ids(["a", "b"]) == [1, 2]


def test_objects_are_drawn_where_they_are() -> None:
    bitmap = np.zeros((400, 600), np.uint8)
    bitmap[100:300, 200:500] = 1
    palette = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    objects = [
        DetectedObject(0, "large", 0.9, (200.0, 100.0, 500.0, 300.0), RunLengths.of(bitmap)),
        DetectedObject(1, "small", 0.8, (300.0, 180.0, 340.0, 220.0)),
    ]
    image = Image.new("RGB", (600, 400), (0, 0, 0))
    drawn = np.asarray(draw_objects(image, objects, palette)).astype(int)
    assert drawn.shape == (400, 600, 3)
    assert (np.asarray(image) == 0).all()
    inside = drawn[250, 450]
    assert 60 < inside[0] < 140  # translucent
    assert inside[1] == inside[2] == 0
    assert (drawn[350, 100] == 0).all()
    assert drawn[320, :, 0].max() == 0
    assert (drawn[200, 295:301] == (0, 255, 0)).all(-1).any()  # the frame, outside its box
    assert (drawn[190:210, 310:330] == inside).all()  # which hides nothing of the object


def test_crowds_have_a_legend_of_what_has_no_room() -> None:
    palette = class_colours(["one", "two"])
    objects = [DetectedObject(i % 2, ("one", "two")[i % 2], 0.5, (5.0, 5.0, 9.0, 9.0))
               for i in range(200)]  # fmt: skip
    image = Image.new("RGB", (100, 60))
    drawn = draw_objects(image, objects, palette)
    assert drawn.height > 10 * 60
    assert draw_objects(image, objects, palette, legend=False).size == (500, 300)


def test_legends_flow_in_columns_and_have_a_fixed_height() -> None:
    picture = Image.new("RGB", (300, 100))
    entries = [LegendEntry((255, 0, 0), f"name {i}", "1 %") for i in range(9)]
    needed = with_legend(picture, entries, 13)
    assert needed.width == 300
    sizes = {with_legend(picture, entries[:count], 13, rows=2).size for count in range(9)}
    assert len(sizes) == 1
    assert with_legend(picture, [], 13) is picture
    wide = with_legend(picture, [LegendEntry(None, "a name that is wider than it " * 5)], 13)
    assert wide.width > 300


@pytest.mark.parametrize("text", ["person 0.98", "Müller", "人 0.5", "лошадь", ""])
def test_any_letters(text: str) -> None:
    width, height = text_size(text, font_for(text, 20))
    assert width >= 0
    assert 10 < height < 60
