"""A contact sheet: images beside the views that a network is shown of them, large enough to be looked at."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sslcut.data.views import Views

CELL = 96  # pixels that a picture's side takes at least
GAP = 4
LINE = 16  # height of a caption
COLUMNS = 8  # pictures side by side on a sheet, where one image with its views does not need more
PAPER, INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(
    pixels: Tensor, views: Views | None, mean: Sequence[float], std: Sequence[float], captions: Sequence[str]
) -> Image.Image:
    """A sheet of uint8 images (N, 3, S, S), each below its caption and, where there are `views`, left of its own.

    `mean` and `std` undo the views' normalisation. Small pictures are enlarged by whole pixels. Raises ValueError where
    the counts of images, captions and views differ.
    """
    strips = [
        _strip([image, *own], caption)
        for image, own, caption in zip(pixels, _shown(views, mean, std, len(pixels)), captions, strict=True)
    ]
    columns = max(1, COLUMNS // (1 + (sum(len(group) for group in views.crops) if views else 0)))
    width, height = (max((strip.size[axis] for strip in strips), default=0) for axis in (0, 1))
    rows = -(-len(strips) // columns)
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), GAP + rows * (height + GAP)), PAPER)
    for place, strip in enumerate(strips):
        row, column = divmod(place, columns)
        sheet.paste(strip, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet


def _shown(views: Views | None, mean: Sequence[float], std: Sequence[float], count: int) -> Iterator[list[Tensor]]:
    """For each image its views as uint8 (3, h, w), in the order of the recipe's crops."""
    if views is None:
        yield from ([] for _ in range(count))
        return
    centre, spread = (torch.tensor(list(values))[:, None, None] for values in (mean, std))
    restored = [((group.cpu() * spread + centre) * 255).round().clamp(0, 255).byte() for group in views.crops]
    for image in range(restored[0].shape[1]):
        yield [view for group in restored for view in group[:, image]]


def _strip(pictures: Sequence[Tensor], caption: str) -> Image.Image:
    """Pictures (3, h, w) of any sizes side by side, under one caption."""
    drawn = [_picture(picture) for picture in pictures]
    side = max(picture.height for picture in drawn)
    strip = Image.new("RGB", (len(drawn) * (side + GAP) - GAP, LINE + side), PAPER)
    draw, font = ImageDraw.Draw(strip), _font()
    while caption and draw.textlength(caption, font=font) > strip.width:
        caption = caption[:-2].rstrip("…") + "…" if len(caption) > 2 else ""
    draw.text((0, 0), caption, fill=INK, font=font)
    for place, picture in enumerate(drawn):
        strip.paste(picture, (place * (side + GAP), LINE))
    return strip


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of the system's that knows most scripts, else Pillow's own, which knows few."""
    with suppress(OSError):
        return ImageFont.truetype("DejaVuSans.ttf", 11)
    return ImageFont.load_default(size=11)


def _picture(pixels: Tensor) -> Image.Image:
    """uint8 (3, h, w) as a picture, each pixel enlarged to a square where it is small."""
    times = max(1, -(-CELL // pixels.shape[2]))
    array = pixels.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array).resize((pixels.shape[2] * times, pixels.shape[1] * times), Image.Resampling.NEAREST)
