"""Which number format to train in."""

import time

import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(device: torch.device) -> str:
    """``bf16`` or ``fp16`` on a GPU; on a CPU ``bf16`` only where a short measurement shows it to be faster.

    CPUs without bf16 instructions emulate it: such a convolution took 22 times as long as in fp32 (AMD Zen 3).
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu":
        return "fp32"
    return "bf16" if _seconds("bf16") < 0.8 * _seconds("fp32") else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast context for ``precision`` (not ``auto``) on ``device``."""
    return torch.autocast(device.type, dtype=_DTYPES.get(precision), enabled=precision in _DTYPES)


def _seconds(precision: str) -> float:
    """Best time of three of a small 3D convolution, forward and backward, on the CPU."""
    with torch.random.fork_rng(devices=[]):  # the caller's random stream stays as it was
        convolution, image = torch.nn.Conv3d(32, 32, 3, padding=1), torch.rand(1, 32, 16, 16, 16)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with autocast(torch.device("cpu"), precision):
            output = convolution(image)
        output.float().sum().backward()
        times.append(time.perf_counter() - start)
    return min(times)
