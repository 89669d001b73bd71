"""The page in one file: its codes are Python's weights to 8 bits, and it stays in its limit."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import torch

from seeing.viewer_sessions import demonstrator
from transnext_models.seeing.viewer import static_page
from transnext_models.seeing.viewer.static_page import rooted


def parts(html: str) -> tuple[dict, bytes]:
    found = re.search(r'id="data">(.*?)</script>.*?id="payload">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1]), base64.b64decode(found[2])


def test_codes_are_the_weights() -> None:
    session = demonstrator(images=2)
    data, payload = parts(static_page(session).html)
    assert [image["name"] for image in data["images"]] == ["digit 0", "digit 1"]
    for image in data["images"]:
        record = session.record(image["id"])
        for info, kept in zip(record.blocks, image["models"][0]["blocks"], strict=True):
            weights = record.weights(info.stage, info.block).transpose(0, 1).numpy()
            codes = np.frombuffer(payload, np.uint8, weights.size, kept["codes"])
            scales = np.frombuffer(payload, "<f4", weights[..., 0].size * 2, kept["scales"])
            scale = scales.reshape(*weights.shape[:2], 2)[..., :1]
            got = (codes.reshape(weights.shape) / 255) ** 2 * scale
            assert (np.abs(got - weights) <= 0.004 * scale + 1e-7).all()


def test_large_pages_keep_fewer_queries_and_say_so() -> None:
    session = demonstrator(images=1)
    whole, small = static_page(session), static_page(session, limit=4000)
    assert not whole.remarks
    assert len(small.remarks) >= 1
    assert "stage 1: one query of" in small.remarks[0]
    steps = [block["step"] for block in parts(small.html)[0]["images"][0]["models"][0]["blocks"]]
    assert steps[0] > 1
    assert len(small.html) < len(whole.html)


def test_names_cannot_end_the_script() -> None:
    session = demonstrator(images=1)
    name = "</script><script>alert(1)</script>"
    session.add(name, session._images["0"].image)
    data, _ = parts(static_page(session).html)
    assert data["images"][-1]["name"] == name


def test_square_roots_keep_small_weights() -> None:
    values = torch.tensor([[1.0, 0.5, 1e-4, 0.0]])
    codes, scale = rooted(values)
    assert codes.tolist() == [[255, 180, 3, 0]]
    assert scale.tolist() == [1.0]
    assert rooted(torch.zeros(1, 3))[0].tolist() == [[0, 0, 0]]
