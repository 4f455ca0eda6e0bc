"""Softmax attention and the gated feed-forward, under the names of the published checkpoints."""

from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Layers


class Attention(nn.Module):
    """Multi-head attention from (b t d) to (b s d_context); inner width ``d_inner``, q, k and v without bias."""

    def __init__(self, layers: Layers, d: int, heads: int, d_context: int | None = None, d_inner: int | None = None):
        super().__init__()
        d_context, d_inner = d_context or d, d_inner or d
        self.heads = heads
        self.attention = layers.attention
        self.to_q = layers.linear(d, d_inner, bias=False)
        self.to_k = layers.linear(d_context, d_inner, bias=False)
        self.to_v = layers.linear(d_context, d_inner, bias=False)
        self.to_out = nn.ModuleList([layers.linear(d_inner, d)])

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention of x (b t d), projected back to d."""
        return self.to_out[0](self.attend(self.to_q(x), self.to_k(x), self.to_v(x)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of projected tokens, before the output projection."""
        return self.attention(q, k, v, self.heads)


class GatedProjection(nn.Module):
    """value · gelu(gate) from one projection."""

    def __init__(self, layers: Layers, d: int, d_inner: int):
        super().__init__()
        self.proj = layers.linear(d, 2 * d_inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated feed-forward of inner width 4·d. Slot 1 of ``net`` is the dropout of training, which holds no weights."""

    def __init__(self, layers: Layers, d: int):
        super().__init__()
        self.net = nn.Sequential(GatedProjection(layers, d, 4 * d), nn.Identity(), layers.linear(4 * d, d))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
