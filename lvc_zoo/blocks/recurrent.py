"""Recurrent cells."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .activation import sigmoid
from .conv import Conv2d


class LSTMState(NamedTuple):
    """State of a convolutional LSTM.

    Attributes:
        hidden: h, `(B, C, H, W)`, in (-1, 1).
        cell: c, `(B, C, H, W)`, unbounded: it may grow by at most 1 a step.
    """

    hidden: Tensor
    cell: Tensor


class ConvLSTMCell(nn.Module):
    """Convolutional LSTM cell without peepholes (Shi et al., arXiv 1506.04214; L-STEC, arXiv 2512.12790, Eq. 5 to 9).

    All gates come from one convolution of `[hidden, input]`, in the order input, forget, output, candidate:
    `c' = sigmoid(f) * c + sigmoid(i) * tanh(g)`, `h' = sigmoid(o) * tanh(c')`.

    Args:
        in_channels: channels of the input.
        channels: C of the state.
        kernel_size: odd.

    Example:
        >>> hidden, cell = ConvLSTMCell(3, 8)(torch.zeros(1, 3, 4, 6))
        >>> hidden.shape
        torch.Size([1, 8, 4, 6])
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int = 3):
        super().__init__()
        self.channels = channels
        self.gates = Conv2d(channels + in_channels, 4 * channels, kernel_size)

    def forward(self, x: Tensor, state: LSTMState | None = None) -> LSTMState:
        """The next state, `(B, C, H, W)` each, for `x (B, in_channels, H, W)`; None starts from zeros."""
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.channels, *x.shape[-2:])
            state = LSTMState(zeros, zeros)
        gates = self.gates(torch.cat([state.hidden, x], dim=1))
        i, f, o = sigmoid(gates[:, : 3 * self.channels]).chunk(3, dim=1)
        cell = f * state.cell + i * torch.tanh(gates[:, 3 * self.channels :])
        return LSTMState(o * torch.tanh(cell), cell)
