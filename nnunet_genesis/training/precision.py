"""Number format and memory format of a run: chosen by what the machine computes in hardware, and corrected on CPUs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MEMORY_FORMATS = ("auto", "contiguous", "channels_last")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(device: torch.device, precision: str = "auto") -> str:
    """Replace ``auto``: ``bf16`` where the device has it in hardware, else ``fp16`` on a CUDA GPU and ``fp32``.

    Never by a measurement, which would give one seed different weights on a busy machine.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Say whether this CPU multiplies bf16 (AVX512-BF16, also where there is AMX); others emulate it slowly."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Make the autocast context for ``precision`` (not ``auto``) on ``device``."""
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


def small_maps(network: nn.Module, shape: Sequence[int]) -> list[str]:
    """Name the 3D convolutions, transposed ones too, whose kernel is longer than a map along an axis.

    Their input's map or their output's, for inputs of ``shape`` (batch, channels, z, y, x). The network runs on
    tensors without data.
    """
    found: list[str] = []

    def look(name: str, convolution: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        sizes = zip(inputs[0].shape[2:], output.shape[2:], convolution.kernel_size, strict=True)
        if any(min(before, after) < length for before, after, length in sizes):
            found.append(name)

    kinds = (nn.Conv3d, nn.ConvTranspose3d)
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    hooks = [one.register_forward_hook(functools.partial(look, name)) for name, one in convolutions.items()]
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    try:
        without_data = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
        # tie_weights=False: with it torch 2.14 doesn't restore a module that has two names, as nnU-Net's encoder has.
        torch.func.functional_call(network, without_data, torch.empty(*shape, device="meta"), tie_weights=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def keep_small_maps_in_fp32(network: nn.Module, shape: Sequence[int]) -> list[str]:
    """Let the convolutions that :func:`small_maps` names compute in fp32 within autocast; returns their names.

    In bf16 oneDNN leaves memory uninitialised there: in torch 2.14.1 the weights' gradient of a 3×3×3 convolution
    with a map of depth 2, in torch 2.11 outputs and gradients where a map is 1 voxel long (docs/speed.md). No
    convolution with larger maps was found wrong.
    """
    names = small_maps(network, shape)
    for name in names:
        convolution = network.get_submodule(name)
        vars(convolution).pop("forward", None)  # of an earlier call
        convolution.forward = _in_fp32(convolution.forward)
    return names


def _in_fp32(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    @functools.wraps(forward)
    def fp32_forward(image: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(image.float())

    return fp32_forward


def in_words(precision: str, kept: Sequence[str]) -> str:
    """Describe the number format for the log, with the names that :func:`keep_small_maps_in_fp32` gave."""
    if not kept:
        return f"Number format: {precision}"
    return (
        f"Number format: {precision}; in fp32, since torch's {precision} on a CPU is wrong on maps smaller than the "
        f"kernel: {len(kept)} convolution(s), {', '.join(kept)}"
    )


def torch_format(memory_format: str) -> torch.memory_format:
    """Give torch's name of a memory format of 3D images; ``auto`` is contiguous."""
    return torch.channels_last_3d if memory_format == "channels_last" else torch.contiguous_format


def move(network: nn.Module, device: torch.device, memory_format: str) -> None:
    """Move ``network`` to ``device``, its 3D kernels in ``memory_format``; other tensors have no such format."""
    network.to(device)
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch_format(memory_format))


def lay_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Lay moments that were read as their weights lie: fused AdamW pairs the two in the order of memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)
