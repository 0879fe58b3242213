"""Depthwise convolutions whose gradients are fast on processors.

The library that computes them there (oneDNN) needs up to 40 times as long for the gradient of a weight of 5 x 5 as for
one of 3 x 3, and in bfloat16 up to 100 times as long for that of a strided layer's input as for that of any other. Here
weights get theirs in pieces of at most 3 x 3, and inputs by a convolution with the turned weight
(``python perf/depthwise_speed.py`` times both). Outputs are those of the plain layers, bit for bit; gradients differ
from theirs by rounding. Other devices compute as always.
"""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_PIECE = 3
_Two = tuple[int, int]


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, stride: _Two, padding: _Two) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(image, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        asked = ctx.needs_input_grad
        return (
            _of_image(gradient, image, weight, ctx.stride, ctx.padding) if asked[0] else None,
            _of_weight(gradient, image, weight, ctx.stride, ctx.padding) if asked[1] else None,
            gradient.sum((0, 2, 3)) if asked[2] else None,
            None,
            None,
        )


def _of_image(gradient: Tensor, image: Tensor, weight: Tensor, stride: _Two, padding: _Two) -> Tensor:
    """Return the gradient of the input: of a stride of 1 a convolution; else with zeros between the outputs."""
    if stride != (1, 1):
        sides = [
            side + 2 * pad - size + 1 for side, pad, size in zip(image.shape[2:], padding, _size(weight), strict=True)
        ]
        apart = torch.empty(*image.shape[:2], *sides, dtype=image.dtype, memory_format=torch.channels_last).zero_()
        apart[:, :, :: stride[0], :: stride[1]] = gradient
        gradient = apart
    around = [size - 1 - pad for size, pad in zip(_size(weight), padding, strict=True)]
    return F.conv2d(gradient, weight.flip(2, 3), None, 1, around, groups=len(weight))


def _of_weight(gradient: Tensor, image: Tensor, weight: Tensor, stride: _Two, padding: _Two) -> Tensor:
    """Return the gradient of the weight, by pieces that may overlap."""
    if max(_size(weight)) <= _PIECE:
        return _of_piece(gradient, image, weight, stride, padding)
    image = F.pad(image, [padding[1], padding[1], padding[0], padding[0]])
    reach = [pace * (side - 1) for pace, side in zip(stride, gradient.shape[2:], strict=True)]
    found = torch.empty_like(weight)
    for top, left in itertools.product(*map(_starts, _size(weight))):
        piece = weight[:, :, top : top + _PIECE, left : left + _PIECE]
        height, width = _size(piece)
        seen = image[:, :, top : top + reach[0] + height, left : left + reach[1] + width]
        found[:, :, top : top + height, left : left + width] = _of_piece(gradient, seen, piece, stride, (0, 0))
    return found


def _of_piece(gradient: Tensor, image: Tensor, weight: Tensor, stride: _Two, padding: _Two) -> Tensor:
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, image, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), (False, True, False)
    )[1]
    return found


def _starts(size: int) -> Iterator[int]:
    """Yield where pieces begin that cover a side of the weight."""
    yield from sorted({min(start, max(size - _PIECE, 0)) for start in range(0, size, _PIECE)})


def _size(weight: Tensor) -> _Two:
    height, width = weight.shape[2:]
    return height, width


if TYPE_CHECKING:
    _Base = nn.Conv2d
else:
    _Base = object


class _Depthwise(_Base):
    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(input)
        given: list[Tensor | None] = [input, self.weight, self.bias]
        if torch.is_autocast_enabled("cpu"):
            kind = torch.get_autocast_dtype("cpu")
            given = [None if one is None else one.to(kind) for one in given]
        if isinstance(self, Conv2dSame):
            given[0] = pad_same(given[0], list(self.kernel_size), list(self.stride))
        output: Tensor = _Convolve.apply(*given, self.stride, self.padding)
        return output


class DepthwiseConv2d(_Depthwise, nn.Conv2d):
    """`torch.nn.Conv2d` of one channel a group, with gradients that are fast on a CPU."""


class DepthwiseConv2dSame(_Depthwise, Conv2dSame):
    """timm's convolution with TensorFlow's padding of one channel a group, with gradients that are fast on a CPU."""


_REPLACEMENT = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}


def speed_up_depthwise(network: nn.Module) -> None:
    """Change the class of every depthwise convolution of a network, in place; weights and their names stay."""
    for module in network.modules():
        if type(module) in _REPLACEMENT and _is_plain_depthwise(module):
            module.__class__ = _REPLACEMENT[type(module)]


def _is_plain_depthwise(layer: Any) -> bool:
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(pad < size for pad, size in zip(layer.padding, layer.kernel_size, strict=True))
    )
