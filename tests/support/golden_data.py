"""Golden data: outputs of the published TransNeXt in float64, with weights re-created from names.

Every parameter of a golden case is drawn from a generator that its state-dict key seeds, so a
case needs no checkpoint: `fill_state_dict` makes the weights, `golden_input` the images, and the
``.npz`` files hold what the published implementation computes from them.

Only NumPy and the standard library are imported. Use::

    from golden_data import load_case

    case = load_case("micro_224")
    state_dict, images = case.state_dict(), case.images()
    assert case.relative_error("logits", my_logits) <= FLOAT64_TOLERANCE

The files lie beside this module in ``golden/``. A folder named by ``TRANSNEXT_GOLDEN_DIR``, and
``../shared/golden`` beside the repository, are searched as well where they exist.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FLOAT64_TOLERANCE = 1e-6
"""Largest `relative_error` of a float64 model (the published code keeps some tables in float32)."""

FLOAT32_TOLERANCE = 5e-5
"""Largest `relative_error` of a float32 model."""

INPUT_SEED = 1234
LOSS_SEED = 4321

_TESTS = Path(__file__).resolve().parents[1]


def golden_directories() -> list[Path]:
    """The existing folders that are searched for cases, the first that has a case winning."""
    named = os.environ.get("TRANSNEXT_GOLDEN_DIR")
    folders = [Path(named)] if named else []
    folders += [_TESTS / "golden", _TESTS.parent.parent / "shared" / "golden"]
    return [folder for folder in folders if folder.is_dir()]


def _find_files() -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in golden_directories():
        for path in sorted(folder.glob("*.npz")):
            files.setdefault(path.stem, path)
    return files


def cases() -> list[str]:
    """The names of all cases, sorted: what `load_case` accepts."""
    return sorted(_find_files())


def fill_value(key: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 value that the fill rule gives to one state-dict entry.

    Parameters
    ----------
    key
        State-dict key, such as ``"block1.0.attn.q.weight"``. It seeds the generator.
    shape
        Shape of the entry.

    Returns
    -------
    numpy.ndarray
        float32, of that shape: computed in float64 and rounded once.

    Raises
    ------
    ValueError
        If no line of the fill rule applies to the key.
    """
    shape = tuple(int(extent) for extent in shape)
    seed = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big")
    z = np.random.Generator(np.random.PCG64(seed)).standard_normal(size=shape)
    owner, leaf = ["", *key.split(".")][-2:]
    if leaf == "temperature":
        value = math.log(math.exp(1 / 0.24) - 1) + 0.1 * z
    elif leaf == "query_embedding":
        value = 0.05 * z
    elif leaf == "relative_pos_bias_local":
        value = 0.2 * z
    elif leaf in ("learnable_tokens", "learnable_bias"):
        value = 0.1 * z
    elif leaf not in ("weight", "bias"):
        raise ValueError(f"key: the golden fill rule has no line for {key!r}")
    elif owner.startswith("norm"):
        value = 1 + 0.1 * z if leaf == "weight" else 0.1 * z
    elif owner == "cpb_fc1":
        value = (0.5 if leaf == "weight" else 0.2) * z
    elif owner == "cpb_fc2":
        value = (0.05 if leaf == "weight" else 0.2) * z
    elif leaf == "weight":
        value = z / math.sqrt(math.prod(shape[1:]))
    else:
        value = 0.1 * z
    return value.astype(np.float32)


def fill_state_dict(
    keys_and_shapes: Mapping[str, Sequence[int]] | Iterable[tuple[str, Sequence[int]]],
) -> dict[str, np.ndarray]:
    """Fill a whole state dict by name.

    Parameters
    ----------
    keys_and_shapes
        ``{key: shape}`` or pairs ``(key, shape)``.

    Returns
    -------
    dict of str to numpy.ndarray
        float32 arrays in the order given.
    """
    if isinstance(keys_and_shapes, Mapping):
        keys_and_shapes = keys_and_shapes.items()
    return {key: fill_value(key, shape) for key, shape in keys_and_shapes}


def fill_sha256(state_dict: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) of the float32 bytes of all entries, in C order, by sorted key."""
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        digest.update(np.ascontiguousarray(state_dict[key], dtype="<f4").tobytes())
    return digest.hexdigest()


def golden_input(height: int, width: int) -> np.ndarray:
    """The images of every case: float32 ``[2, 3, height, width]``."""
    generator = np.random.Generator(np.random.PCG64(INPUT_SEED))
    return generator.standard_normal((2, 3, height, width)).astype(np.float32)


def golden_loss_weights() -> np.ndarray:
    """``R`` of the gradient case's ``loss = sum(logits * R)``: float32 ``[2, 1000]``."""
    generator = np.random.Generator(np.random.PCG64(LOSS_SEED))
    return generator.standard_normal((2, 1000)).astype(np.float32)


def max_relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Max abs difference over max abs value; infinite if shapes differ or a value is not finite."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return math.inf
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@dataclass(frozen=True)
class GoldenCase:
    """One case: how the published model was built, and what it gave.

    Attributes
    ----------
    name
        File name without its ending.
    kind
        ``"cls"`` (classification), ``"det"`` (dense backbone) or ``"grad"`` (gradients).
    variant
        Model name, such as ``"transnext_tiny"``.
    img_size, pretrain_size
        Sizes the model was built for; ``pretrain_size`` is ``img_size`` where the file names none.
    fixed_pool_size
        Pool size of the linear inference mode, or None.
    position_bias
        ``"extrapolate"`` or ``"interpolate"``.
    input_shape
        ``(2, 3, H, W)``.
    shapes
        State-dict shapes by sorted key.
    arrays
        Everything else that the file holds, by name.
    """

    name: str
    kind: str
    variant: str
    img_size: int
    pretrain_size: int
    fixed_pool_size: int | None
    position_bias: str
    input_shape: tuple[int, int, int, int]
    shapes: dict[str, tuple[int, ...]]
    arrays: dict[str, np.ndarray]

    def state_dict(self) -> dict[str, np.ndarray]:
        """The weights, float32, a new copy at each call."""
        return fill_state_dict(self.shapes)

    def images(self) -> np.ndarray:
        """The images, float32 `input_shape`."""
        return golden_input(*self.input_shape[2:])

    @property
    def map_names(self) -> list[str]:
        """The feature maps the file has samples of: ``stage1``… (tokens) or ``feat1``… (maps)."""
        return [name[: -len("_step")] for name in self.arrays if name.endswith("_step")]

    @property
    def gradient_keys(self) -> list[str]:
        """Names of the rows of ``grad_norms`` and ``grad_first16``; the last is ``__input__``."""
        return json.loads(str(self.arrays["grad_keys_json"]))

    @property
    def zero_gradient_keys(self) -> list[str]:
        """Names of the gradients that are zero but for rounding."""
        return json.loads(str(self.arrays["grad_zero_keys_json"]))

    def relative_error(
        self, name: str, actual: np.ndarray, *, first_image_only: bool = False
    ) -> float:
        """Max abs difference over max abs value of one output, sampled as the file has it.

        Parameters
        ----------
        name
            ``"logits"`` (compared with the float64 logits) or one of `map_names`.
        actual
            The whole output: logits ``[2, 1000]``, tokens ``[2, N, C]`` or map ``[2, C, h, w]``.
            A wrong shape, a value that is not finite, or a sum of squares that differs by more
            than one in a thousand (wrong where no sample was taken) gives infinity.
        first_image_only
            Whether `actual` holds the first image's output only, at half the work. The sum of
            squares, known of both together, is then not compared.
        """
        actual = np.asarray(actual, np.float64)
        images = 1 if first_image_only else self.input_shape[0]
        if name == "logits":
            return max_relative_error(actual, self.arrays["logits_f64"][:images])
        shape = tuple(self.arrays[f"{name}_shape"])
        if actual.shape != (images, *shape[1:]):
            return math.inf
        sum_of_squares = float(self.arrays[f"{name}_sumsq"])
        difference = abs(float(np.square(actual).sum()) - sum_of_squares)
        if not first_image_only and not difference <= 1e-3 * sum_of_squares:
            return math.inf
        samples = actual.reshape(-1)[:: int(self.arrays[f"{name}_step"])]
        return max_relative_error(samples, self.arrays[name][: samples.size])


def load_case(name: str) -> GoldenCase:
    """Read one case by name.

    Raises
    ------
    ValueError
        If there is no such case.
    """
    files = _find_files()
    if name not in files:
        raise ValueError(f"name: no golden case {name!r}; there are {sorted(files)}")
    with np.load(files[name]) as archive:
        arrays: dict[str, Any] = {key: archive[key] for key in archive.files}
    description = json.loads(str(arrays.pop("case_json")))
    keywords = description["kwargs"]
    return GoldenCase(
        name=name,
        kind=description["kind"],
        variant=f"transnext_{description['arch']}",
        img_size=keywords["img_size"],
        pretrain_size=keywords.get("pretrain_size", keywords["img_size"]),
        fixed_pool_size=keywords.get("fixed_pool_size"),
        position_bias=("extrapolate" if keywords.get("is_extrapolation", True) else "interpolate"),
        input_shape=tuple(description["input"]),
        shapes={key: tuple(shape) for key, shape in json.loads(str(arrays.pop("keys_json")))},
        arrays=arrays,
    )
