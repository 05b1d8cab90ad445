"""Procedural images whose every factor is known and independent: shape, hue, background, x, y, size and rotation.

An image is a function of (seed, split, index) alone: an integer hash gives its draws, float64 its colours, rounded
once to bytes. Only + − × ÷ and square roots touch a pixel, so machines agree to the bit but for the sine and cosine
of two angles an image, whose last bit would have to fall on a rounding edge.

Lengths are shares of the image's side. `size` is the square root of the shape's area, and (x, y) its centre of mass,
so neither tells which shape it is; the ranges of x and y keep the largest shape inside.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import cos, pi, sin, sqrt
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from sslcut.data.images import ArrayImages, Dataset, Task
from sslcut.data.memory import check_memory
from sslcut.errors import UsageError

Array = NDArray[np.float64]
Split = Literal["train", "test"]

SIZES = (8, 512)
BACKGROUNDS = ("plain", "gradient", "texture")
DRAWS = (
    *("shape", "hue", "background", "x", "y", "size", "rotation"),
    *("saturation", "value", "ground hue", "ground saturation", "ground value"),
    *("second hue", "second value", "direction", "wave u", "wave v", "phase u", "phase v"),
)  # an image's draws by name; one more goes at the end, so that the others stay
RANGES = {"x": (0.36, 0.64), "y": (0.36, 0.64), "size": (0.24, 0.40)}
PIXELS_AT_ONCE = 2**17  # a megabyte a temporary: what a core's cache holds


@dataclass(frozen=True)
class Shape:
    """An outline about its centre of mass: its area, signed distance (negative inside), and turns onto itself.

    `symmetry` n means that 1/n of a turn changes nothing; 0, that no rotation does.
    """

    name: str
    symmetry: int
    area: float
    distance: Callable[[Array, Array], Array]


def _disc(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - 1


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.sqrt(x * x + y * y) - 0.775) - 0.225


def _ellipse(x: Array, y: Array) -> Array:
    """To first order: the implicit function over its gradient's length, floored where that vanishes at the centre."""
    v = y / 0.5
    return (x * x + v * v - 1) / np.maximum(2 * np.sqrt(x * x + (v / 0.5) ** 2), 1e-9)


def _half_disc(x: Array, y: Array) -> Array:
    y = y + 4 / (3 * pi)
    return np.maximum(_disc(x, y), -y)


def _crescent(x: Array, y: Array) -> Array:
    """The unit disc less the unit disc one radius to the right."""
    x = x - (pi / 3 - sqrt(3) / 4) / (pi / 3 + sqrt(3) / 2)
    return np.maximum(_disc(x, y), -_disc(x - 1, y))


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1, np.minimum(x, y) - 0.33)


def _star(points: int, notch: float) -> Callable[[Array, Array], Array]:
    """A star with tips at radius 1, one of them up, and notches at radius `notch`; a polygon where that is cos(π/n).

    The plane is folded into the wedge between a tip and the next notch, along mirrors at multiples of π/n.
    """
    step, mirrors, reach = pi / points, [], points
    while reach > 1:
        reach = (reach + 1) // 2
        mirrors.append((cos(reach * step), -sin(reach * step)))
    edge = (notch * sin(step), notch * cos(step) - 1)
    length = sqrt(edge[0] ** 2 + edge[1] ** 2)

    def distance(x: Array, y: Array) -> Array:
        x = np.abs(x)
        for across, along in mirrors:
            beyond = 2 * np.maximum(x * across + y * along, 0)
            x, y = x - beyond * across, y - beyond * along
        return ((y - 1) * edge[0] - x * edge[1]) / length

    return distance


def _star_area(points: int, notch: float) -> float:
    return points * notch * sin(pi / points)


def _pointed(name: str, points: int, notch: float) -> Shape:
    return Shape(name, points, _star_area(points, notch), _star(points, notch))


SHAPES = (
    Shape("disc", 0, pi, _disc),
    Shape("ring", 0, pi * (1 - 0.55**2), _ring),
    Shape("ellipse", 2, pi / 2, _ellipse),
    Shape("half-disc", 1, pi / 2, _half_disc),
    Shape("crescent", 1, pi / 3 + sqrt(3) / 2, _crescent),
    _pointed("triangle", 3, cos(pi / 3)),
    _pointed("square", 4, cos(pi / 4)),
    _pointed("pentagon", 5, cos(pi / 5)),
    _pointed("star", 5, 0.45),
    Shape("cross", 4, 8 * 0.33 - 4 * 0.33**2, _cross),
)


def load(
    *,
    seed: int,
    size: Annotated[int, Field(ge=8, le=512)] = 32,
    train: Annotated[int, Field(ge=1)] = 20000,
    test: Annotated[int, Field(ge=1)] = 5000,
) -> Dataset:
    """Procedural shapes: seven independent factors, each a task."""
    if not SIZES[0] <= size <= SIZES[1]:
        raise UsageError(f"data.size {size} is not in {SIZES[0]} … {SIZES[1]}", hint="shapes are drawn at these sizes")
    check_memory(train + test, size)
    return Dataset("shapes", Shapes(seed, "train", train, size), Shapes(seed, "test", test, size))


class Shapes(ArrayImages):
    """`count` drawn images of one split, in memory; `masks` tells which pixels the shape covers."""

    def __init__(self, seed: int, split: Split, count: int, size: int) -> None:
        self._draws = draws(seed, split, np.arange(count))
        super().__init__(torch.from_numpy(_render(self._draws, size)), tasks(self._draws))

    def masks(self, indices: Tensor) -> Tensor:
        """How much of each pixel the shape covers, uint8 (n, S, S), 255 for all of it."""
        chosen = {name: values[indices.numpy()] for name, values in self._draws.items()}
        return torch.from_numpy(_render(chosen, self.size, mask=True)).squeeze(1)


def draws(seed: int, split: Split, indices: NDArray[np.int64]) -> dict[str, Array]:
    """Every draw of each image, (n,) float64: classes as whole numbers, lengths as shares, angles in turns.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) in counter mode: the key comes from the seed, the split and the draw,
    the counter is the index.
    """
    drawn = {}
    for number, name in enumerate(DRAWS):
        key = _mix(_mix(np.array([seed % 2**64], np.uint64)) + np.uint64(2 * number + (split == "test")))
        bits = _mix(key + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
        low, high = RANGES.get(name, (0.0, 1.0))
        drawn[name] = low + (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 * (high - low)
    drawn["shape"] = np.floor(drawn["shape"] * len(SHAPES))
    drawn["background"] = np.floor(drawn["background"] * len(BACKGROUNDS))
    return drawn


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def tasks(drawn: dict[str, Array]) -> dict[str, Task]:
    """The seven factors as tasks; the rotation of a shape that no rotation changes is undefined."""
    symmetry = np.array([shape.symmetry for shape in SHAPES])[drawn["shape"].astype(np.int64)]
    turns = np.where(symmetry > 0, symmetry * drawn["rotation"], np.nan)
    numbers = {name: Task("number", torch.from_numpy(drawn[name]).float()) for name in ("x", "y", "size")}
    return {
        "shape": Task("class", torch.from_numpy(drawn["shape"]).long(), tuple(shape.name for shape in SHAPES)),
        "hue": Task("angle", _angle(drawn["hue"])),
        "background": Task("class", torch.from_numpy(drawn["background"]).long(), BACKGROUNDS),
        **numbers,
        "rotation": Task("angle", _angle(turns)),
    }


def _angle(turns: Array) -> Tensor:
    radians = torch.from_numpy(turns) * (2 * pi)
    return torch.stack([radians.sin(), radians.cos()], dim=1).float()


def _render(drawn: dict[str, Array], size: int, mask: bool = False) -> NDArray[np.uint8]:
    """The images (n, 3, size, size), or the masks (n, 1, size, size), drawn by as many threads as torch has."""
    count = len(drawn["shape"])
    pixels = np.empty((count, 1 if mask else 3, size, size), np.uint8)
    at_once = max(1, PIXELS_AT_ONCE // size**2)

    def draw(shape: Shape, rows: NDArray[np.int64]) -> None:
        one = {name: values[rows, None, None] for name, values in drawn.items()}
        cover = _cover(shape, one, size)
        image = [cover] if mask else _paint(one, cover)
        for channel, values in enumerate(image):
            pixels[rows, channel] = (values * 255 + 0.5).astype(np.uint8)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        jobs = [
            pool.submit(draw, shape, rows[start : start + at_once])
            for number, shape in enumerate(SHAPES)
            for rows in [np.flatnonzero(drawn["shape"] == number)]
            for start in range(0, len(rows), at_once)
        ]
        for job in jobs:
            job.result()
    return pixels


def _cover(shape: Shape, one: dict[str, Array], size: int) -> Array:
    """How much of each pixel the shape covers, (n, size, size): its edge is a ramp one pixel wide."""
    grid = (np.arange(size) + 0.5) / size
    right, down = grid[None, None, :] - one["x"], grid[None, :, None] - one["y"]
    unit = one["size"] / sqrt(shape.area)
    c, s = np.cos(2 * pi * one["rotation"]) / unit, np.sin(2 * pi * one["rotation"]) / unit
    distance = shape.distance(c * right + s * down, c * down - s * right) * unit
    return np.clip(0.5 - distance * size, 0, 1)


def _paint(one: dict[str, Array], cover: Array) -> list[Array]:
    """The three channels: a saturated shape on a ground that mixes two muted colours by `t`."""
    size = cover.shape[-1]
    grid = (np.arange(size) + 0.5) / size - 0.5
    c, s = np.cos(2 * pi * one["direction"]), np.sin(2 * pi * one["direction"])
    u = c * grid[None, None, :] + s * grid[None, :, None]
    v = c * grid[None, :, None] - s * grid[None, None, :]
    woven = (
        _wave(u * (3 + 4 * one["wave u"]) + one["phase u"]) + _wave(v * (3 + 4 * one["wave v"]) + one["phase v"])
    ) / 2
    t = np.where(one["background"] == 1, 0.5 + u / sqrt(2), np.where(one["background"] == 2, woven, 0.0))
    value = 0.2 + 0.7 * one["ground value"]
    second = 0.2 + (value - 0.2 + 0.25 + 0.2 * one["second value"]) % 0.7  # at least 0.25 lighter or darker
    front = _colour(one["hue"], 0.65 + 0.35 * one["saturation"], 0.7 + 0.3 * one["value"])
    muted = 0.3 * one["ground saturation"]
    grounds = zip(_colour(one["ground hue"], muted, value), _colour(one["second hue"], muted, second), strict=True)
    painted = []
    for colour, (a, b) in zip(front, grounds, strict=True):
        ground = a + t * (b - a)
        painted.append(ground + cover * (colour - ground))
    return painted


def _wave(x: Array) -> Array:
    """A triangular wave of period 1 between 0 and 1."""
    return np.abs(2 * (x - np.floor(x)) - 1)


def _colour(hue: Array, saturation: Array, value: Array) -> list[Array]:
    """Red, green and blue of a hue in turns, a saturation and a value."""
    return [value * (1 - saturation * np.clip(2 - np.abs((6 * hue + shift) % 6 - 3), 0, 1)) for shift in (0, 4, 2)]
