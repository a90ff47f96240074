"""Which number format and memory format to train in: the fastest on this machine, by a short measurement."""

import functools
import time
from typing import Any

import torch
from torch import nn

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
CPU_PRECISIONS = ("auto", "fp32", "bf16")
MEMORY_FORMATS = ("auto", "contiguous", "channels_last")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_GAIN = 0.8  # a later choice must take less than this share of the time: measurements on shared machines waver


def choose_formats(device: torch.device, precision: str = "auto", memory_format: str = "auto") -> tuple[str, str]:
    """Replace what is ``auto``.

    Precision: ``bf16`` or ``fp16`` on a GPU; on a CPU ``bf16`` where it is measured to be faster. CPUs without bf16
    instructions emulate it: such a convolution took 22 times as long as in fp32 (AMD Zen 3). Memory format:
    ``channels_last`` where it is measured to be faster.
    """
    if precision == "auto" and device.type == "cuda":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type not in ("cpu", "cuda"):
        return precision.replace("auto", "fp32"), memory_format.replace("auto", "contiguous")
    precisions = ("fp32", "bf16") if precision == "auto" else (precision,)
    memory_formats = ("contiguous", "channels_last") if memory_format == "auto" else (memory_format,)
    choices = [(number, memory) for number in precisions for memory in memory_formats]
    best, *others = choices
    if others:
        seconds = {choice: _seconds(device, *choice) for choice in choices}
        for choice in others:
            best = choice if seconds[choice] < _GAIN * seconds[best] else best
    return best


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast context for ``precision`` (not ``auto``) on ``device``."""
    return torch.autocast(device.type, dtype=_DTYPES.get(precision), enabled=precision in _DTYPES)


def forward_in(network: nn.Module, precision: str) -> None:
    """Let ``network`` compute in ``precision`` on the CPU, where nnU-Net uses no autocast; outputs stay float32."""
    vars(network).pop("forward", None)  # of an earlier call
    if precision == "fp32":
        return
    forward = network.forward

    @functools.wraps(forward)
    def autocast_forward(*args: Any, **kwargs: Any) -> Any:
        with autocast(torch.device("cpu"), precision):
            outputs = forward(*args, **kwargs)
        return [output.float() for output in outputs] if isinstance(outputs, (list, tuple)) else outputs.float()

    network.forward = autocast_forward


def torch_format(memory_format: str) -> torch.memory_format:
    """Torch's name of a memory format of 3D images."""
    return torch.channels_last_3d if memory_format == "channels_last" else torch.contiguous_format


def move(network: nn.Module, device: torch.device, memory_format: str) -> None:
    """Move ``network`` to ``device``, its 3D kernels in ``memory_format``; other tensors have no such format."""
    network.to(device)
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch_format(memory_format))


def _seconds(device: torch.device, precision: str, memory_format: str) -> float:
    """Best time of three of a network's small block, forward and backward."""
    edge = 64 if device.type == "cuda" else 16
    with torch.random.fork_rng(devices=[]):  # the caller's random stream stays as it was
        block = nn.Sequential(nn.Conv3d(32, 32, 3, padding=1), nn.InstanceNorm3d(32, affine=True), nn.LeakyReLU())
        image = torch.rand(2, 32, edge, edge, edge)
    move(block, device, memory_format)
    image = image.to(device, memory_format=torch_format(memory_format))
    times = []
    for _ in range(4):  # the first one prepares
        _wait(device)
        start = time.perf_counter()
        with autocast(device, precision):
            output = block(image)
        output.float().sum().backward()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
