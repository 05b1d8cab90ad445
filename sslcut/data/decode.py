"""Picture files to square uint8 arrays, by as many threads as torch has.

Whatever the file holds (palette, transparency, grey, 16 bits, CMYK, a camera's orientation) becomes RGB on white: the
largest centred square, reduced with anti-aliasing.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sslcut.data.memory import available_memory, check_memory
from sslcut.errors import InputError

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)
LARGE = 2**25  # pixels: a picture of more is decoded alone, so that threads do not hold several at once
STRIP = 2**20  # pixels converted at a time, so that a large picture is in memory once

ORIENTATION = 0x0112  # the EXIF tag; its values 2 to 8 say what turns the stored picture upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_large = Lock()


def decode_files(paths: Sequence[Path], size: int, *, skip_bad: bool) -> tuple[Tensor, Tensor, list[str]]:
    """The pictures as uint8 (n, 3, size, size), which of `paths` they are (n,), and a warning if any is left out.

    A file that several links lead to is decoded once. One that cannot be read raises InputError naming it, unless
    `skip_bad`; MachineError where the pictures would take more than half of the memory there is.
    """
    first: dict[str, int] = {}
    source = [first.setdefault(os.path.realpath(path), row) for row, path in enumerate(paths)]
    links = [row for row, other in enumerate(source) if row != other]
    blank = np.zeros((3, size, size), np.uint8)

    def one(row: int) -> Pixels:
        return decode(paths[row], size) if source[row] == row else blank

    pixels, faults = fill(len(paths), size, one, go_on=skip_bad)
    pixels[links] = pixels[[source[row] for row in links]]
    faults |= {row: faults[source[row]] for row in links if source[row] in faults}
    if not faults:
        return pixels, torch.arange(len(paths)), []
    example = f"{paths[min(faults)]}: {faults[min(faults)]}"
    if not skip_bad:
        raise InputError(f"cannot read {example}", hint="data.skip_bad: true leaves such images out")
    kept = torch.tensor([row for row in range(len(paths)) if row not in faults], dtype=torch.int64)
    return pixels[kept], kept, [f"{len(faults):,} unreadable images are left out (e.g. {example})"]


def fill(count: int, size: int, one: Callable[[int], Pixels], *, go_on: bool) -> tuple[Tensor, dict[int, str]]:
    """`one(row)` for each of `count` rows, as uint8 (count, 3, size, size), and why rows failed.

    After a failure the rest is left undone unless `go_on`. Raises MachineError where the array would take more than
    half of the memory there is.
    """
    check_memory(count, size)
    pixels = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    array, faults = pixels.numpy(), dict[int, str]()

    def job(row: int) -> None:
        if faults and not go_on:
            return
        try:
            array[row] = one(row)
        except MemoryError:
            raise
        except Exception as fault:  # a broken file makes a decoder raise nearly anything
            faults[row] = _reason(fault)

    with _pillow_unguarded(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(job, range(count)):
            pass
    return pixels, faults


def decode(path: Path, size: int) -> Pixels:
    """One picture file as (3, size, size). Raises whatever Pillow raises on a file that it cannot read."""
    with Image.open(path) as picture:
        picture.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that is enough
        pixels = picture.width * picture.height
        if 4 * pixels > available_memory() / 2:
            raise ValueError(f"{picture.width} × {picture.height} pixels do not fit into memory")
        with _large if pixels > LARGE else nullcontext():
            picture.load()
            small = _square(picture, size)
        turn = UPRIGHT.get(picture.getexif().get(ORIENTATION, 1))
    return _array(small if turn is None else small.transpose(turn))


def square(picture: Image.Image, size: int) -> Pixels:
    """A picture in memory as (3, size, size)."""
    return _array(_square(picture, size))


def resized(pixels: Tensor, size: int) -> Tensor:
    """Square pictures, uint8 (N, C, S, S), at another size, with anti-aliasing."""
    if pixels.shape[-1] == size:
        return pixels
    parts = (
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round_().to(torch.uint8)
        for part in torch.split(pixels, 1024)
    )
    return torch.cat(list(parts))


def _square(picture: Image.Image, size: int) -> Image.Image:
    """The largest centred square, first averaged over whole blocks to twice `size` or more, then resampled to it."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    block = max(1, side // (2 * size))
    small = Image.new("RGB", (-(-side // block),) * 2)
    height = block * max(1, STRIP // (side * block))
    for y in range(0, side, height):
        strip = picture.crop((left, top + y, left + side, top + min(y + height, side)))
        small.paste(_opaque(strip).reduce(block), (0, y // block))
    return small.resize((size, size), Image.Resampling.BICUBIC, box=(0, 0, side / block, side / block))


def _opaque(picture: Image.Image) -> Image.Image:
    """RGB; on white where the picture is transparent."""
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion would clip at 255
        grey = np.asarray(picture).astype(np.float64) / 257
        return Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white, picture = Image.new("RGB", picture.size, "white"), picture.convert("RGBA")
    white.paste(picture, mask=picture)
    return white


def _array(picture: Image.Image) -> Pixels:
    return np.asarray(picture).transpose(2, 0, 1)


def _reason(fault: Exception) -> str:
    if isinstance(fault, UnidentifiedImageError):
        return "not a picture, or one of a kind that Pillow does not know"
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    return str(fault).splitlines()[0] if str(fault) else type(fault).__name__


@contextmanager
def _pillow_unguarded() -> Iterator[None]:
    """Pillow without warnings (a file's oddities) and without its limit of pixels, since `decode` has its own."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
