"""Stand-ins for released weight files, made from the facts in reference/RESTORATION.md, and their networks' outputs."""

import math
from itertools import product
from typing import Any

import torch
from torch.nn import functional

Shapes = dict[str, list[int]]
State = dict[str, torch.Tensor]

V1_FEATURES = [32, 64, 128, 256, 320, 320]
V1_STRIDES = [(1, 1, 1), *[(2, 2, 2)] * 4, (1, 2, 2)]
DOWN, UP = ("down_tr64", "down_tr128", "down_tr256", "down_tr512"), ("up_tr256", "up_tr128", "up_tr64")
WIDTHS = [(1, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]  # the encoder's
UP_WIDTHS = [(768, 256), (256, 256), (384, 128), (128, 128), (192, 64), (64, 64)]


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """Weights that keep activations near 1: kernels as He's, norms near 1, the rest small."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif len(shape) == 5:
            inputs = shape[:4] if name.endswith("/kernel") else shape[1:]  # Keras' axes are (x, y, z, in, out)
            value *= (2 / math.prod(inputs)) ** 0.5
        else:
            value = value * 0.1 + name.endswith(("norm.weight", "bn1.weight", "gamma", "var"))
        state[name] = value
    return state


def v1_block(stage: int, number: int) -> str:
    """Name of a convolution block of nnU-Net v1's encoder."""
    return f"conv_blocks_context.{stage}." + (f"{number}.blocks.0" if stage == 5 else f"blocks.{number}")


def v1_shapes() -> Shapes:
    """The 98 tensors of genesis_nnunet_luna16_006.model."""
    shapes: Shapes = {}

    def block(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.conv.weight"] = [outputs, inputs, 3, 3, 3]
        for rest in ("conv.bias", "instnorm.weight", "instnorm.bias"):
            shapes[f"{name}.{rest}"] = [outputs]

    for stage, (inputs, outputs) in enumerate(zip([1, *V1_FEATURES], V1_FEATURES, strict=False)):
        block(v1_block(stage, 0), inputs, outputs)
        block(v1_block(stage, 1), outputs, outputs)
    for up in range(5):
        below, skip = V1_FEATURES[5 - up], V1_FEATURES[4 - up]
        block(f"conv_blocks_localization.{up}.0.blocks.0", 2 * skip, skip)
        block(f"conv_blocks_localization.{up}.1.blocks.0", skip, skip)
        shapes[f"tu.{up}.weight"] = [below, skip, *V1_STRIDES[5 - up]]
        shapes[f"seg_outputs.{up}.weight"] = [2, skip, 1, 1, 1]
    return shapes


def v1_output(state: State, x: torch.Tensor) -> torch.Tensor:
    """Full-resolution output of nnU-Net v1's network; (B, 1, X, Y, Z) -> (B, 2, X, Y, Z)."""

    def block(x: torch.Tensor, name: str, stride: Any = 1) -> torch.Tensor:
        x = functional.conv3d(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], stride, padding=1)
        scale, shift = state[f"{name}.instnorm.weight"], state[f"{name}.instnorm.bias"]
        return functional.leaky_relu(functional.instance_norm(x, weight=scale, bias=shift, eps=1e-5), 1e-2)

    skips = []
    for stage, stride in enumerate(V1_STRIDES):
        x = block(block(x, v1_block(stage, 0), stride), v1_block(stage, 1))
        skips.append(x)
    for up in range(5):
        x = functional.conv_transpose3d(x, state[f"tu.{up}.weight"], stride=V1_STRIDES[5 - up])
        x = torch.cat([x, skips[4 - up]], 1)
        for number in (0, 1):
            x = block(x, f"conv_blocks_localization.{up}.{number}.blocks.0")
    return functional.conv3d(x, state["seg_outputs.4.weight"])


def unet3d_shapes() -> Shapes:
    """The 106 tensors of Genesis_Chest_CT.pt, without its prefix."""
    shapes: Shapes = {}

    def block(name: str, number: int, inputs: int, outputs: int) -> None:
        shapes[f"{name}.ops.{number}.conv1.weight"] = [outputs, inputs, 3, 3, 3]
        shapes[f"{name}.ops.{number}.conv1.bias"] = [outputs]
        for rest in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.ops.{number}.bn1.{rest}"] = [outputs]
        shapes[f"{name}.ops.{number}.bn1.num_batches_tracked"] = []

    for number, (inputs, outputs) in enumerate(WIDTHS):
        block(DOWN[number // 2], number % 2, inputs, outputs)
    for number, (inputs, outputs) in enumerate(UP_WIDTHS):
        if number % 2 == 0:
            below = 2 * outputs
            shapes[f"{UP[number // 2]}.up_conv.weight"] = [below, below, 2, 2, 2]
            shapes[f"{UP[number // 2]}.up_conv.bias"] = [below]
        block(UP[number // 2], number % 2, inputs, outputs)
    return shapes | {"out_tr.final_conv.weight": [1, 64, 1, 1, 1], "out_tr.final_conv.bias": [1]}


def unet3d_output(state: State, x: torch.Tensor) -> torch.Tensor:
    """Logits of the original network; (B, 1, X, Y, Z) -> the same."""

    def blocks(x: torch.Tensor, name: str) -> torch.Tensor:
        for number in (0, 1):
            conv, norm = (f"{name}.ops.{number}.{part}" for part in ("conv1", "bn1"))
            x = functional.conv3d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], padding=1)
            x = functional.batch_norm(x, None, None, state[f"{norm}.weight"], state[f"{norm}.bias"], training=True)
            x = functional.relu(x)
        return x

    skips: list[torch.Tensor] = []
    for name in DOWN:
        x = blocks(functional.max_pool3d(skips[-1], 2) if skips else x, name)
        skips.append(x)
    for name, skip in zip(UP, skips[-2::-1], strict=True):
        x = functional.conv_transpose3d(x, state[f"{name}.up_conv.weight"], state[f"{name}.up_conv.bias"], stride=2)
        x = blocks(torch.cat([x, skip], 1), name)
    return functional.conv3d(x, state["out_tr.final_conv.weight"], state["out_tr.final_conv.bias"])


def keras_shapes(order: tuple[int, ...] = (8, 9, 10, 11, 12, 13)) -> Shapes:
    """Arrays by LAYER/KIND; ``order``: numbers of the decoder's layers, from the bottom up."""
    shapes: Shapes = {}
    widths = [*WIDTHS, *UP_WIDTHS]
    for number, (inputs, outputs) in zip([*range(8), *order], widths, strict=True):
        shapes[f"depth_{number}_conv/kernel"] = [3, 3, 3, inputs, outputs]
        shapes[f"depth_{number}_conv/bias"] = [outputs]
        for kind in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"depth_{number}_bn/{kind}"] = [outputs]
    return shapes | {"conv3d_1/kernel": [1, 1, 1, 64, 1], "conv3d_1/bias": [1]}


def keras_output(state: State, x: torch.Tensor) -> torch.Tensor:
    """Logits of the Keras network in training mode, the up-sampled map first; (B, 1, X, Y, Z) -> the same."""

    def block(x: torch.Tensor, number: int) -> torch.Tensor:
        x = keras_convolution(x, state[f"depth_{number}_conv/kernel"], state[f"depth_{number}_conv/bias"])
        scale, shift = state[f"depth_{number}_bn/gamma"], state[f"depth_{number}_bn/beta"]
        return functional.relu(functional.batch_norm(x, None, None, scale, shift, training=True, eps=1e-3))

    skips: list[torch.Tensor] = []
    for level in range(4):
        x = functional.max_pool3d(skips[-1], 2) if skips else x
        x = block(block(x, 2 * level), 2 * level + 1)
        skips.append(x)
    for level, skip in enumerate(skips[-2::-1]):
        x = torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), skip], 1)
        x = block(block(x, 8 + 2 * level), 9 + 2 * level)
    return keras_convolution(x, state["conv3d_1/kernel"], state["conv3d_1/bias"])


def keras_convolution(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """'same' convolution with a kernel (x, y, z, in, out), from its definition."""
    edge, size = kernel.shape[0] // 2, x.shape[2:]
    padded = functional.pad(x, [edge] * 6)
    out = bias.reshape(1, -1, 1, 1, 1)
    for i, j, k in product(range(kernel.shape[0]), repeat=3):
        window = padded[:, :, i : i + size[0], j : j + size[1], k : k + size[2]]
        out = out + torch.einsum("bcxyz,co->boxyz", window, kernel[i, j, k])
    return out
