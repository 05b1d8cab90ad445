"""One epoch end to end, images to weights, beside lightly's published SimCLR example."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import VisionDataset
from torchvision.transforms.functional import to_pil_image

from sslcut.bench.contest import Contender, Contest
from sslcut.bench.goals import Ratio
from sslcut.bench.peers import peer
from sslcut.bench.setting import Setting
from sslcut.data.images import ArrayImages, statistics
from sslcut.data.views import Crop, ViewMaker
from sslcut.methods.simclr import SimCLR
from sslcut.model.build import build
from sslcut.model.chain import Chain
from sslcut.training.loop import Plan, train
from sslcut.training.world import choose_precision, synchronise

SIZE, BATCH, BATCHES = 32, 256, 8
MODEL = {"backbone": {"name": "resnet18", "width": 16, "stem": "small"}, "projector": {"widths": [256, 256, 128]}}
SCALE = (0.2, 1.0)
LR = 0.06
WITH_MATRIX_UNITS, WITHOUT = 1.8, 1.0  # times lightly's pace


def epoch(setting: Setting) -> Iterator[Contest]:
    """One epoch of SimCLR on a small ResNet-18, data and step, against lightly's published example."""
    device = setting.open_device()
    batch = setting.scaled(BATCH, least=8)
    factor = WITH_MATRIX_UNITS if has_matrix_units() else WITHOUT
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (BATCHES * batch, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    yield Contest(
        f"an epoch of SimCLR, small ResNet-18, {len(pixels):,} images of {SIZE} px, batch {batch}",
        [ours(pixels, batch, device), peer("lightly", partial(lightly, pixels, batch, device))],
        goals=[Ratio("at least", factor, "peer")] if device.type == "cpu" else [],
        count=len(pixels),
        unit="images",
        settle=partial(synchronise, device),
    )


def has_matrix_units() -> bool:
    """Whether the processor multiplies bf16 matrices in units of their own (AMX)."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False


def ours(pixels: Tensor, batch: int, device: torch.device) -> Contender:
    """sslcut's training loop for an epoch, in the precision that it measures to be best beforehand."""
    images = ArrayImages(pixels, {})
    mean, std = statistics(images)
    fixed: dict[str, Any] = {"strength": 1.0, "exact": False, "seed": 0, "mean": mean, "std": std}
    views = ViewMaker([Crop(2, SIZE, SCALE)], policy="simclr", options={"blur": 0.0}, **fixed)
    method = SimCLR(network()).to(device)
    first = torch.arange(batch)
    precision = choose_precision("auto", method, views(pixels[:batch].to(device), first.to(device), 0), None)
    plan = Plan(1, batch, {"name": "sgd", "lr": LR}, 0, device, precision, lr_scaling="none")

    def work() -> None:
        for _ in train(method, images, None, views, plan):
            pass

    return Contender("sslcut", work, note=precision.label)


def lightly(pixels: Tensor, batch: int, device: torch.device) -> Contender:
    """lightly's plain PyTorch example, which is a little faster than the one that uses Lightning, on the same network.

    Its loader's processes, one a thread, live on from epoch to epoch; for one thread this process makes the views.
    """
    from lightly.data import LightlyDataset
    from lightly.data.multi_view_collate import MultiViewCollate
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=SIZE, min_scale=SCALE[0], gaussian_blur=0.0)
    workers = torch.get_num_threads()
    loader = DataLoader(
        LightlyDataset.from_torch_dataset(_Pictures(pixels), transform=transform),
        batch_size=batch,
        collate_fn=MultiViewCollate(),
        shuffle=True,
        drop_last=True,
        num_workers=workers if workers > 1 else 0,
        persistent_workers=workers > 1,
    )
    model, criterion = network().to(device).train(), NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def work() -> float:
        total = torch.zeros((), device=device)
        for (first, second), _, _ in loader:
            loss = criterion(model(first.to(device)), model(second.to(device)))
            total += loss.detach()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return total.item() / len(loader)

    return Contender("lightly", work, "peer", note=f"float32, {workers} processes for the data")


def network() -> Chain:
    """The small ResNet-18 with its projector, the same weights each time."""
    torch.manual_seed(0)
    return build(MODEL)


class _Pictures(VisionDataset):  # type: ignore[misc]
    """Images in memory as torchvision's data sets give them: PIL, with a class."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__("")
        self.pictures = [to_pil_image(image) for image in pixels]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.transforms(self.pictures[index], 0)
