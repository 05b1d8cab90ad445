"""A picture file to a square uint8 array.

Whatever the file holds (palette, transparency, grey, 16 bits, CMYK, a camera's orientation) becomes RGB on white: the
largest centred square, reduced with anti-aliasing.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from warnings import filterwarnings

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sslcut.data.memory import available_memory

Pixels = NDArray[np.uint8]

VERSION = 1  # of the decoder: to be raised where the same file gives other pixels, which decoded caches then learn
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)
LARGE = 2**25  # pixels: a picture of more is decoded alone, so that threads do not hold several at once
STRIP = 2**20  # pixels converted at a time, so that a large picture is in memory once
PLENTY = 1024  # pixels a side: a larger square is first averaged down to this or more, which is cheaper

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


class TooLarge(Exception):
    """A picture that does not fit into the memory there is at the moment."""


def decode(path: Path, size: int) -> Pixels:
    """One picture file as (3, size, size).

    Raises TooLarge where there is no memory for it, and whatever Pillow raises on a file that it cannot read.
    """
    with _unguarded(), Image.open(path) as picture:
        picture.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that is enough
        pixels = picture.width * picture.height
        if pixels > STRIP and 4 * pixels > available_memory() / 2:
            raise TooLarge(f"{picture.width} × {picture.height} pixels do not fit into memory")
        with _large if pixels > LARGE else nullcontext():
            picture.load()
            turn = UPRIGHT.get(picture.getexif().get(ORIENTATION, 1))
            small = _reduced(picture, size)
    return _resampled(small if turn is None else small.transpose(turn), size)


def square(picture: Image.Image, size: int) -> Pixels:
    """A picture in memory as (3, size, size)."""
    with _unguarded():
        return _resampled(_reduced(picture, size), size)


def resized(pixels: Tensor, size: int) -> Tensor:
    """Square pictures, uint8 (N, C, S, S), at another size, with anti-aliasing."""
    if pixels.shape[-1] == size:
        return pixels
    parts = (
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round_().to(torch.uint8)
        for part in torch.split(pixels, 1024)
    )
    return torch.cat(list(parts))


def reason(fault: Exception) -> str:
    """Why a file could not be read, in a few words."""
    if isinstance(fault, UnidentifiedImageError):
        return "not a picture, or one of a kind that Pillow does not know"
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    return str(fault).splitlines()[0] if str(fault) else type(fault).__name__


def _reduced(picture: Image.Image, size: int) -> Image.Image:
    """The largest centred square as RGB; a large one is averaged over whole blocks, and keeps twice `size` at least.

    Of a square that is not made of whole blocks the rim, less than a block wide, is left out.
    """
    side = min(picture.size)
    block = max(1, side // max(PLENTY, 2 * size))
    across = side // block
    left, top = (picture.width - across * block) // 2, (picture.height - across * block) // 2
    small = Image.new("RGB", (across, across))
    rows = max(1, STRIP // (across * block * block))
    for row in range(0, across, rows):
        y, end = top + row * block, top + min(row + rows, across) * block
        strip = picture.crop((left, y, left + across * block, end))
        small.paste(_opaque(strip).reduce(block), (0, row))
    return small


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


def _resampled(picture: Image.Image, size: int) -> Pixels:
    """A square RGB picture as (3, size, size): torch's bicubic, which gives Pillow's bytes within 1, much faster."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(0)
    if pixels.shape[-1] != size:
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return pixels[0].numpy()


_guard, _inside, _limit = Lock(), 0, Image.MAX_IMAGE_PIXELS


@contextmanager
def _unguarded() -> Iterator[None]:
    """Pillow without remarks on a file's oddities, and without its limit of pixels, since `decode` has its own.

    Both are the process's, so of the threads inside at one time the first lifts the limit and the last restores it.
    """
    global _inside, _limit
    with _guard:
        if _inside == 0:
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            filterwarnings("ignore", module=r"PIL\b")
        _inside += 1
    try:
        yield
    finally:
        with _guard:
            _inside -= 1
            if _inside == 0:
                Image.MAX_IMAGE_PIXELS = _limit
