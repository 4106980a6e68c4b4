"""Peak memory of a computation, measured, and how many samples fit into a budget of it."""

import gc
import platform
from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path

import torch

from crossgap_lib.errors import CrossgapError


class PeakMemory:
    """Measures the most memory that the code in its ``with`` block takes at any time, beyond what was taken before.

    ``bytes`` holds it afterwards: of allocated memory on a GPU, of resident memory on Linux, None elsewhere.
    """

    def __init__(self, device: torch.device):
        self.device, self.cuda, self.bytes = device, device.type == "cuda", None

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        elif platform.system() == "Linux":
            CDLL(None).malloc_trim(0)  # the system gets back what was freed, or this code's memory would hide in it
            Path("/proc/self/clear_refs").write_text("5")  # the peak, VmHWM, starts again from here
            self.before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.cuda:
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.before
        elif platform.system() == "Linux":
            self.bytes = max(0, _status_bytes("VmHWM") - self.before)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def parse_bytes(text: str) -> int:
    """\"800M", "2G", "1.5 GiB" or a plain number of bytes; K, M and G are powers of 1024.

    Raises:
        CrossgapError: anything else.
    """
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    powers = {"k": 1, "m": 2, "g": 3, "t": 4}
    unit = number[-1:] if number[-1:] in powers else ""
    try:
        value = float(number.removesuffix(unit)) * 1024 ** powers.get(unit, 0)
    except ValueError:
        value = 0.0
    if not 1 <= value < 2**60:
        raise CrossgapError(f"{text!r} is no amount of memory; say 800M or 2G.")
    return int(value)


def fitting_batch(run: Callable[[int], object], budget: int, device: torch.device, most: int = 4096) -> int:
    """The largest number of samples whose ``run`` stays within ``budget`` bytes: ``most``, or a power of two from 8 on.

    It is measured: sizes are tried, the smallest first, until one takes too much, or the growth from the last size to
    this one says that the next would. Where ``most`` is below 8, it is the only size.

    Raises:
        CrossgapError: not even the smallest size fits.
    """
    sizes = [*(2**k for k in range(3, 60) if 2**k < most), most]
    run(sizes[0])  # libraries load and allocators warm up
    batch, taken = sizes[0], _peak(run, sizes[0], device)
    if taken > budget:
        raise CrossgapError(
            f"{batch} samples take {taken / 2**20:.0f} MiB here, more than the budget of {budget / 2**20:.0f} MiB."
        )
    each = 0.0  # bytes that one more sample takes, as far as is known
    for size in sizes[1:]:
        if taken + each * (size - batch) > budget or (now := _peak(run, size, device)) > budget:
            break
        each, batch, taken = (now - taken) / (size - batch), size, now
    return batch


def _peak(run: Callable[[int], object], n: int, device: torch.device) -> int:
    with PeakMemory(device) as peak:
        run(n)
    if peak.bytes is None:
        raise CrossgapError("Memory can be measured on Linux and on GPUs; give --batch instead of --memory here.")
    return peak.bytes
