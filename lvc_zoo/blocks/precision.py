"""Where float32 is kept whatever the caller's autocast says."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Context without autocast on the device of `x`; the body still casts its inputs to float32 itself."""
    if x.device.type == "meta":  # has no autocast, which PyTorch reports as an error
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 where it is a shorter type: positions, flows and residuals do not bear bfloat16's eight bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
