"""Linear attention whose keys and values collapse into one small matrix per head."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from .precision import full_precision


class LinearAttention(nn.Module):
    """Efficient attention (Shen et al., arXiv 1812.01243) as BiECVC uses it (arXiv 2505.09193, eq. 3 and 4).

    There is one path, through the summary `A = softmax(K)^T V`: keys are normalised over positions, queries over the
    channels of a head, and no position ever meets another one. A summary of a reference can be cached: it does not
    depend on the query. Everything inside runs in float32, because at 1080p a key's weight is about 5e-7.

    Args:
        head_dim: channels of one head; must divide the channels of keys and queries.

    Example:
        >>> attention = LinearAttention(head_dim=4)
        >>> key = value = query = torch.rand(1, 8, 3, 5)
        >>> attention(query, attention.summarise(key, value)).shape
        torch.Size([1, 8, 3, 5])
    """

    def __init__(self, head_dim: int = 16):
        super().__init__()
        self.head_dim = head_dim

    def summarise(self, key: Tensor, value: Tensor) -> Tensor:
        """Collapse one reference, keys and values `(B, D, H, W)`, into `A (B, heads, head_dim, head_dim)`, float32."""
        with full_precision(key):
            key = self._split(key)
            # exp and sum instead of softmax: softmax over positions differs between CPU instruction sets
            weight = (key - key.amax(dim=-1, keepdim=True)).exp()
            summed = einsum(weight, self._split(value), "b h k n, b h v n -> b h k v")
            return summed / weight.sum(dim=-1, keepdim=True)

    def forward(self, query: Tensor, summary: Tensor) -> Tensor:
        """Context for each query position: `query (B, D, H, W)` and `summary` as above to `(B, D, H, W)`."""
        height, width = query.shape[-2:]
        with full_precision(query):
            split = self._split(query)
            weight = (split - split.amax(dim=2, keepdim=True)).exp()
            weight = weight / weight.sum(dim=2, keepdim=True)
            # MKL rounds the columns after the last multiple of 16 by how threads share them
            if height * width % 16:
                weight = F.pad(weight, (0, -(height * width) % 16))
            read = einsum(summary, weight, "b h k v, b h k n -> b h v n")[..., : height * width]
        joined = rearrange(read, "b h v (y x) -> b (h v) y x", y=height, x=width)
        return joined.to(query.dtype).contiguous(memory_format=torch.channels_last)

    def _split(self, x: Tensor) -> Tensor:
        if x.shape[1] % self.head_dim:
            raise ValueError(
                f"attention over {x.shape[1]} channels does not split into heads of {self.head_dim}; "
                "use a multiple of head_dim"
            )
        return rearrange(x.float(), "b (h d) y x -> b h d (y x)", d=self.head_dim)
