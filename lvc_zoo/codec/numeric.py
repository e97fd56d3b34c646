"""The one numeric mode that makes bytes: eager float32, channels_last, autocast off, batch 1."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def coding_mode(module: nn.Module) -> Iterator[None]:
    """Run the body as every encoder and decoder must: evaluation mode, no gradients, plain float32 kernels.

    The module's training flags and PyTorch's global switches are restored afterwards.

    Raises:
        ValueError: where a parameter is not float32.
    """
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(f"parameter {name} is {parameter.dtype}, coding needs float32; call codec.float() first")
    training = {part: part.training for part in module.modules() if part.training}
    device = next(module.parameters()).device
    precision = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
        for part in training:
            part.training = False
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            for part, flag in training.items():
                part.training = flag
