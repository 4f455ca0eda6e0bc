"""Whether a layer's weights can be used as they lie: then what surrounds the layer can become part of its product."""

from torch import Tensor, nn


def weights_lie_ready(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``layer`` uses its weights for x as they are: ComfyUI's layers may have to fetch, cast or patch theirs first."""
    patches = getattr(layer, "weight_function", None) or getattr(layer, "bias_function", None)
    return layer.weight.device == x.device and layer.weight.dtype == x.dtype and not patches


def is_bare(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``layer`` does nothing to x but what its weights say: a LoRA in training adds to it in a hook."""
    return weights_lie_ready(layer, x) and not layer._forward_hooks
