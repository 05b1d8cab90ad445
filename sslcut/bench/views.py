"""Two SimCLR views of a batch: sslcut's maker beside kornia's and stable-pretraining's batched augmentations, and
beside lightly's and torchvision's, which work sample by sample in as many processes as sslcut has threads.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from sslcut.bench.contest import Contender, Contest, Role
from sslcut.bench.goals import Ratio
from sslcut.bench.peers import peer
from sslcut.bench.setting import Setting
from sslcut.data.views import Crop, ViewMaker
from sslcut.training.world import synchronise

BATCH = 256
SCALE = (0.2, 1.0)
JITTER = (0.8, 0.8, 0.8, 0.2)  # brightness, contrast, saturation, hue
JITTERED, GREYED = 0.8, 0.2
SIGMA = (0.1, 2.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Source:
    """What views are made of: uint8 images (B, 3, S, S), and how likely a view is blurred."""

    pixels: Tensor
    blur: float

    @property
    def size(self) -> int:
        """The side of an image and of a view."""
        return self.pixels.shape[-1]

    @property
    def kernel(self) -> int:
        """The blur's width in pixels: a tenth of the side, and odd."""
        return 2 * max(self.size // 20, 1) + 1


def views(setting: Setting) -> Iterator[Contest]:
    """Two SimCLR views of a batch at 32 and 96 px, against kornia, stable-pretraining, lightly and torchvision."""
    device = setting.open_device()
    for size, blur, factor in ((32, 0.0, 3.0), (96, 0.5, 1.8)):
        count = setting.scaled(BATCH, least=8)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator).to(device)
        source = Source(pixels, blur)
        yield Contest(
            f"two SimCLR views{' with blur' if blur else ''}, {size} px, batch {count}",
            [
                ours(source, exact=False),
                ours(source, exact=True),
                peer("kornia", partial(kornia, source)),
                peer("stable-pretraining", partial(stable_pretraining, source)),
                peer("lightly", partial(lightly, source)),
                torchvision(source),
            ],
            goals=[Ratio("at least", factor, "peer")] if device.type == "cpu" else [],
            count=count,
            unit="images",
            settle=partial(synchronise, device),
        )


def ours(source: Source, *, exact: bool) -> Contender:
    """sslcut's views; exact ones follow torchvision operator by operator."""
    crop = Crop(2, source.size, SCALE)
    options = {"blur": source.blur, "sigma": SIGMA}
    fixed: dict[str, Any] = {"strength": 1.0, "seed": 0, "mean": MEAN, "std": STD}
    make = ViewMaker([crop], policy="simclr", options=options, exact=exact, **fixed)
    indices = torch.arange(len(source.pixels), device=source.pixels.device)
    name = "sslcut, exact views" if exact else "sslcut"
    return Contender(name, lambda: make(source.pixels, indices, 0).crops[0], note="a batch at once")


def kornia(source: Source) -> Contender:
    """kornia's augmentations in a row, once for each view: on a CPU faster than once for both."""
    import kornia.augmentation as K

    chain = nn.Sequential(
        K.RandomResizedCrop((source.size, source.size), scale=SCALE),
        K.RandomHorizontalFlip(),
        K.ColorJitter(*JITTER, p=JITTERED),
        K.RandomGrayscale(p=GREYED),
        *([K.RandomGaussianBlur((source.kernel, source.kernel), SIGMA, p=source.blur)] if source.blur else []),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ).to(source.pixels.device)

    @torch.inference_mode()
    def work() -> list[Tensor]:
        images = source.pixels.float().div_(255)
        return [chain(images) for _ in range(2)]

    return Contender("kornia", work, "peer", note="a batch at once")


def stable_pretraining(source: Source) -> Contender:
    """stable-pretraining's augmentations of batches: both views at once on a GPU, one by one on a CPU, as is faster."""
    from stable_pretraining.data import gpu_transforms as G

    chain = G.GPUCompose(
        [
            G.GPURandomResizedCrop(source.size, SCALE),
            G.GPURandomHorizontalFlip(),
            G.GPUColorJitter(*JITTER, p=JITTERED),
            G.GPURandomGrayscale(p=GREYED),
            *([G.GPUGaussianBlur(source.kernel, SIGMA, source.blur)] if source.blur else []),
            G.GPUNormalize(MEAN, STD),
        ]
    )
    both = G.StackedMultiView(chain) if source.pixels.is_cuda else G.MultiView([chain, chain])
    both = both.to(source.pixels.device)

    @torch.inference_mode()
    def work() -> list[Tensor]:
        made = both({"image": source.pixels.float().div_(255)})
        return [view["image"] for view in made["views"]]

    return Contender("stable-pretraining", work, "peer", note="a batch at once")


def lightly(source: Source) -> Contender:
    """lightly's SimCLR transform of PIL images."""
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(
        input_size=source.size,
        min_scale=SCALE[0],
        gaussian_blur=source.blur,
        sigmas=SIGMA,
        normalize={"mean": list(MEAN), "std": list(STD)},
    )
    pictures = [v2.functional.to_pil_image(image) for image in source.pixels.cpu()]
    return _sample_by_sample("lightly", pictures, transform, "peer")


def torchvision(source: Source) -> Contender:
    """torchvision's transforms (v2) of tensors."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(source.size, SCALE),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], JITTERED),
            v2.RandomGrayscale(GREYED),
            *([v2.RandomApply([v2.GaussianBlur(source.kernel, SIGMA)], source.blur)] if source.blur else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return _sample_by_sample("torchvision", list(source.pixels.cpu()), _Twice(transform), "reference")


class _Twice:
    """The two views of one image."""

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> list[Tensor]:
        return [self.transform(image), self.transform(image)]


class _Samples(Dataset[list[Tensor]]):
    """The views of one image at a time, as a loader's processes ask for them."""

    def __init__(self, images: Sequence[Any], transform: Callable[[Any], list[Tensor]]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


def _sample_by_sample(
    name: str, images: Sequence[Any], transform: Callable[[Any], list[Tensor]], role: Role
) -> Contender:
    """A loader whose processes, as many as torch has threads here, share the batch; for one thread this one does."""
    workers = torch.get_num_threads()
    loader = DataLoader(
        _Samples(images, transform),
        batch_size=-(-len(images) // workers),
        num_workers=workers if workers > 1 else 0,
        persistent_workers=workers > 1,
    )

    def work() -> list[list[Tensor]]:
        with warnings.catch_warnings(action="ignore"):  # libraries that a peer imports warn of every fork
            return list(loader)

    processes = f"{workers} processes" if workers > 1 else "this process"
    return Contender(name, work, role, note=f"a sample at a time, {processes}")
