"""How a network gets its weight-holding layers and its attention: handed in, never chosen by the network."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels.convolution import MatmulConvFunction, with_matmul
from .kernels.geglu import GegluFunction, geglu
from .kernels.group_norm_silu import GroupNormSiluFunction, with_kernel
from .kernels.in_place import Lender, own_weights
from .kernels.memory_attention import MemoryAttentionFunction, memory_attention
from .row_scales import SMALLEST, with_row_scale

Item = TypeVar("Item", bound=nn.Module)

if TYPE_CHECKING:

    class ModuleList(nn.ModuleList, Generic[Item]):
        """nn.ModuleList, of which type checkers know the items."""

        def __init__(self, modules: Iterable[Item]): ...
        def __getitem__(self, index: int) -> Item: ...
        def __iter__(self) -> Iterator[Item]: ...

else:
    ModuleList = nn.ModuleList

AttentionFunction = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""softmax(q kᵀ / √d) v with q (b t heads·d), k and v (b s heads·d), heads -> (b t heads·d)."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """AttentionFunction on torch's scaled_dot_product_attention."""
    b, t, _ = q.shape
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # b t (h d) -> b h t d
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1)


def preserve_format(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    """A picture (n c h w) in the channels_last memory format, which a GPU's convolutions want. Weights keep theirs: they are mapped
    from the disk, or streamed by copies that know one order only; torch converts a copy of them at each use, which takes
    little next to the convolution."""
    return x.contiguous(memory_format=torch.channels_last)


_STORED = ("Linear", "Conv1d", "Conv2d")
"""What may be stored in fewer bits."""


@dataclass(frozen=True)
class Layers:
    """Makes the layers of a network.

    operations: namespace with Linear, Conv1d, Conv2d, GroupNorm, LayerNorm and Embedding; ComfyUI's cast operations
    let its ModelPatcher offload, stream and cast every weight. attention: see AttentionFunction. memory_attention: that
    of the motion modules. geglu: that of the feed-forwards. group_norm_silu: group norm where channels come last, if it is not
    torch's. fused: linears of the same input become one matmul (see FusibleProjections); names in state dicts stay those of
    the checkpoint. to_memory_format: what is done to a picture before a convolution that looks around itself; preserve_format or
    channels_last. conv_as_matmul: what is asked first of a convolution, if anything. storage: dtype of matrices and kernels where
    they are stored in fewer bits than ``dtype``; the operations must cast them, unless they are ``scaled``: with a scale for each output row,
    see row_scales. lender: of the weights of ``operations``. stream: dtype of the pictures that residual blocks add to, and of what reads them
    as they are, where these leave the range of ``dtype``; None: the same.
    """

    operations: Any = nn
    attention: AttentionFunction = sdpa
    memory_attention: MemoryAttentionFunction = memory_attention
    geglu: GegluFunction = geglu
    group_norm_silu: GroupNormSiluFunction | None = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    fused: bool = False
    to_memory_format: Callable[[Tensor], Tensor] = preserve_format
    conv_as_matmul: MatmulConvFunction | None = None
    storage: torch.dtype | None = None
    scaled: bool = False
    lender: Lender = own_weights
    stream: torch.dtype | None = None

    def of_stream(self) -> "Layers":
        """For what reads the pictures between residual blocks as they are."""
        return self if self.stream is None else replace(self, dtype=self.stream, storage=None, scaled=False)

    def _make(self, kind: str, *args, **kwargs) -> nn.Module:
        layer: Any = self._kind(kind)(*args, **kwargs, dtype=self.dtype, device=self.device)
        layer.lender = self.lender
        return layer

    def _kind(self, name: str) -> Callable[..., nn.Module]:
        kind, options = getattr(self.operations, name), {}
        if name == "GroupNorm":
            return partial(with_kernel(kind), kernel=self.group_norm_silu)
        if self.scaled and name in _STORED:
            kind, options["stored"] = with_row_scale(kind), self.storage
        if name == "Conv2d" and self.conv_as_matmul:
            kind, options["conv_as_matmul"] = with_matmul(kind), self.conv_as_matmul
        return partial(kind, **options)

    def _make_stored(self, kind: str, numbers: int, *args, **kwargs) -> nn.Module:
        """numbers: of its weight."""
        if self.scaled and numbers <= SMALLEST:
            return replace(self, scaled=False, storage=None)._make(kind, *args, **kwargs)
        if self.scaled or self.storage is None:
            return self._make(kind, *args, **kwargs)
        layer = replace(self, dtype=self.storage)._make(kind, *args, **kwargs)
        if isinstance(layer.bias, Tensor):
            layer.bias = nn.Parameter(layer.bias.to(self.dtype), requires_grad=False)
        return layer

    def linear(self, d_in: int, d_out: int, bias: bool = True) -> nn.Module:
        return self._make_stored("Linear", d_in * d_out, d_in, d_out, bias=bias)

    def conv1d(self, c_in: int, c_out: int, kernel_size: int, **kwargs) -> nn.Module:
        return self._make_stored("Conv1d", c_in * c_out * kernel_size, c_in, c_out, kernel_size, **kwargs)

    def conv2d(self, c_in: int, c_out: int, kernel_size: int, **kwargs) -> nn.Module:
        return self._make_stored("Conv2d", c_in * c_out * kernel_size**2, c_in, c_out, kernel_size, **kwargs)

    def group_norm(self, groups: int, channels: int, eps: float, silu: bool = False) -> nn.Module:
        """silu: that follows."""
        return self._make("GroupNorm", groups, channels, eps=eps, silu=silu)

    def stream_norm(self, groups: int, channels: int, eps: float, silu: bool = False) -> nn.Module:
        """The same of a picture between residual blocks, with a result in ``dtype``."""
        norm: Any = self.of_stream().group_norm(groups, channels, eps, silu)
        norm.out_dtype = None if self.stream is None else self.dtype
        return norm

    def layer_norm(self, d: int, eps: float = 1e-5, affine: bool = True) -> nn.Module:
        return self._make("LayerNorm", d, eps=eps, elementwise_affine=affine)

    def embedding(self, rows: int, d: int) -> nn.Module:
        if self.operations is nn and self.device is not None and torch.device(self.device).type == "meta":
            # its random initialisation has no meta kernel: torch would import its compiler for it, which takes seconds
            # (ComfyUI's operations have none, and complete the layer instead of it)
            return self._make("Embedding", rows, d, _weight=torch.empty(rows, d, dtype=self.dtype, device=self.device))
        return self._make("Embedding", rows, d)
