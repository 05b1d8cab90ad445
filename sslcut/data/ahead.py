"""Batches are read before they are wanted: a thread decodes, or pages in, while the network works."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from sslcut.data.images import Images

Arrival = tuple[Tensor, "torch.cuda.Event | None"]
"""Pixels on the device that asked for them, and the moment on its copying stream from which they can be read."""


def ahead(
    images: Images, batches: Iterable[Tensor], device: torch.device, depth: int = 2
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Each batch's indices (B,) on the CPU and its pixels on `device`, uint8 (B, 3, S, S), in the order of `batches`.

    Up to `depth` batches are read while the caller works; `batches` is drawn from in the caller's own thread. Closing
    the iterator, or an error, lets the read under way end and drops the others. Images that are in memory already are
    read in turn where the device is the CPU: a copy has nothing to wait for, and would take the caller's cores.
    """
    if device.type == "cpu" and images.resident:
        for indices in batches:
            yield indices, images.read(indices)
        return
    fetch = _Fetch(images, device)
    waiting: deque[tuple[Tensor, Future[Arrival]]] = deque()
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
    try:
        for indices in batches:
            waiting.append((indices, reader.submit(fetch, indices)))
            if len(waiting) > depth:
                yield _arrived(*waiting.popleft())
        while waiting:
            yield _arrived(*waiting.popleft())
    finally:
        reader.shutdown(cancel_futures=True)


class _Fetch:
    """Reads a batch and sends it to the device, on a stream of its own where the device is a GPU."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self.images, self.device = images, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, indices: Tensor) -> Arrival:
        pixels = self.images.read(indices)
        if self.stream is None:
            return pixels, None
        pinned = (
            pixels.contiguous().pin_memory()
        )  # grey images are one channel seen three times, which cannot be pinned
        with torch.cuda.stream(self.stream):
            return pinned.to(self.device, non_blocking=True), self.stream.record_event()


def _arrived(indices: Tensor, read: "Future[Arrival]") -> tuple[Tensor, Tensor]:
    """A batch whose pixels the caller's stream may use; waits for the reading thread, never for the GPU."""
    pixels, copied = read.result()
    if copied is not None:
        stream = torch.cuda.current_stream(pixels.device)
        stream.wait_event(copied)
        pixels.record_stream(stream)  # so that their memory is not given to the next copy while this stream reads it
    return indices, pixels
