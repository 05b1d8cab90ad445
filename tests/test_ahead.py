"""Batches read ahead: the same as read in turn, never too far ahead, and no thread left behind."""

import threading
import time

import pytest
import torch

from sslcut.data.ahead import ahead
from sslcut.data.images import ArrayImages

CPU = torch.device("cpu")
BATCHES = [torch.tensor([3, 1]), torch.tensor([0, 2]), torch.tensor([4]), torch.tensor([1, 1]), torch.tensor([2])]


class Slow(ArrayImages):
    """Images that are not in memory, as far as anyone can tell; notes the batches and threads it was read in."""

    resident = False

    def __init__(self, count: int = 5, channels: int = 3, fails_at: int | None = None) -> None:
        pixels = torch.randint(256, (count, channels, 4, 4), generator=torch.Generator().manual_seed(0))
        super().__init__(pixels.byte(), {})
        self.fails_at, self.begun, self.threads = fails_at, 0, set()

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        self.begun += 1
        self.threads.add(threading.current_thread())
        if self.begun - 1 == self.fails_at:
            raise OSError("image 4 is gone")
        return super().read(indices)


def settle(images: Slow, count: int) -> int:
    """How many batches have been begun, once `count` have or a second is over."""
    end = time.monotonic() + 1
    while images.begun < count and time.monotonic() < end:
        time.sleep(0.001)
    return images.begun


def others() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_arrive_in_order_as_if_read_in_turn(depth, channels):
    images = Slow(channels=channels)
    found = list(ahead(images, BATCHES, CPU, depth))
    assert [indices.tolist() for indices, _ in found] == [batch.tolist() for batch in BATCHES]
    assert all(torch.equal(pixels, ArrayImages.read(images, indices)) for indices, pixels in found)
    assert not others()


def test_the_next_batches_are_read_while_the_caller_works_but_no_more_than_asked():
    images = Slow()
    reading = ahead(images, BATCHES, CPU, depth=2)
    next(reading)
    assert settle(images, 3) == 3 and threading.main_thread() not in images.threads
    time.sleep(0.02)
    assert images.begun == 3
    reading.close()


def test_images_in_memory_are_read_in_turn_without_a_thread():
    images = Slow()
    images.resident = True
    reading = ahead(images, BATCHES, CPU)
    next(reading)
    assert images.begun == 1 and images.threads == {threading.main_thread()}


def test_closing_stops_the_thread_and_reads_no_more():
    images = Slow(count=200)
    reading = ahead(images, (torch.tensor([i]) for i in range(200)), CPU, depth=50)
    next(reading)
    reading.close()
    begun = images.begun
    assert not others() and begun < 60
    time.sleep(0.02)
    assert images.begun == begun


def test_an_error_comes_in_its_batchs_turn_and_the_thread_ends():
    reading = ahead(Slow(fails_at=2), BATCHES, CPU, depth=4)
    assert [next(reading)[0].tolist(), next(reading)[0].tolist()] == [[3, 1], [0, 2]]
    with pytest.raises(OSError, match="image 4 is gone"):
        next(reading)
    assert not others()


def test_an_interruption_of_the_caller_leaves_no_thread():
    reading = ahead(Slow(), BATCHES, CPU)
    next(reading)
    with pytest.raises(KeyboardInterrupt):
        reading.throw(KeyboardInterrupt())
    assert not others()


def test_no_batches_are_no_reads():
    images = Slow()
    assert list(ahead(images, [], CPU)) == [] and images.begun == 0


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [1, 3])
def test_a_gpu_gets_the_same_pixels_without_the_host_waiting(channels):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images, found = Slow(channels=channels), []
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = list(ahead(images, BATCHES, torch.device("cuda:0")))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(pixels.cpu(), ArrayImages.read(images, indices)) for indices, pixels in found)
