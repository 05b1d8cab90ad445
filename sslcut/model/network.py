"""A network as its users hold it: images in, the vector that the probe scored out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sslcut.errors import UsageError
from sslcut.model.chain import Chain
from sslcut.model.readout import read


@dataclass(frozen=True)
class Input:
    """What a network expects to be fed: `size` pixels a side, RGB in [0, 1] less `mean`, divided by `std`."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def document(self) -> dict[str, object]:
        """The input as a checkpoint's header stores it."""
        return {"size": self.size, "channels": "RGB", "range": [0, 1], "mean": list(self.mean), "std": list(self.std)}


class Network(nn.Module):
    """A chain with its read-out and its input's normalisation.

    `network(images)` is the (B, D) float32 vector that `sslcut probe` scored at the chain's last block, and
    `network.map(images)` that block's raw output. Images are (B, 3, H, W), uint8 or floats in [0, 1]; the
    normalisation is the network's own business.
    """

    def __init__(self, chain: Chain, readout: str, input: Input) -> None:
        super().__init__()
        self.chain, self.readout, self.input = chain, readout, input
        mean, std = torch.tensor(input.mean).view(3, 1, 1), torch.tensor(input.std).view(3, 1, 1)
        self.register_buffer("scale", 1 / std, persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    @property
    def names(self) -> list[str]:
        """The names of the network's blocks, in order."""
        return self.chain.names

    def forward(self, images: Tensor) -> Tensor:
        chain = self.chain
        return read(self.map(images), self.readout, chain.prefix_tokens, class_token=chain.class_token)

    def map(self, images: Tensor) -> Tensor:
        """The last block's raw output for (B, 3, H, W) images: a map, tokens or a vector."""
        return self.chain(self.normalised(images))

    def features(self, images: Tensor, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Tensor]:
        """The vectors, (B, D) each, at the (block, read-out) pairs of `wanted`, in one pass."""
        return self.chain.features(self.normalised(images), wanted)

    def normalised(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 images as the chain wants them; raises UsageError for another shape."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(f"images have shape {tuple(images.shape)}", hint="give (batch, 3, height, width), RGB")
        assert isinstance(self.scale, Tensor) and isinstance(self.shift, Tensor)
        scale = self.scale / 255 if images.dtype == torch.uint8 else self.scale
        laid_out = images.to(torch.float32, memory_format=torch.channels_last)  # convolutions run faster so
        return torch.addcmul(self.shift, laid_out, scale)
