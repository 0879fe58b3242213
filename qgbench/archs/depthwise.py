"""Depthwise convolutions in float32 on processors.

Under bfloat16 autocast on a CPU the backward pass of a grouped convolution is several times slower than in float32 and
eats what the other layers gain (perf/step_speed.py measures it). Elsewhere these layers change nothing.
"""

from typing import TYPE_CHECKING

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

if TYPE_CHECKING:
    _Base = nn.Conv2d
else:
    _Base = object


class _Float32OnCPU(_Base):
    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(torch.get_autocast_dtype("cpu"))


class Float32Conv2d(_Float32OnCPU, nn.Conv2d):
    """`torch.nn.Conv2d`, computed in float32 on a CPU."""


class Float32Conv2dSame(_Float32OnCPU, Conv2dSame):
    """timm's convolution with TensorFlow's padding, computed in float32 on a CPU."""


_REPLACEMENT = {nn.Conv2d: Float32Conv2d, Conv2dSame: Float32Conv2dSame}


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Change the class of every grouped convolution of a network, in place; weights and their names stay."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and type(module) in _REPLACEMENT:
            module.__class__ = _REPLACEMENT[type(module)]
