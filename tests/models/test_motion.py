"""Motion modules see each position of a picture for itself, and move no more than they must."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memo_modules.models.config import MotionConfig
from memo_modules.models.kernels.group_norm_silu import group_norm_silu
from memo_modules.models.layers import Layers, channels_last
from memo_modules.models.motion import MotionModule

BRANCHES, FRAMES, C, SIDE = 2, 5, 32, 3


@pytest.fixture
def module() -> MotionModule:
    torch.manual_seed(0)
    config = MotionConfig(num_attention_heads=4, num_transformer_block=1, temporal_position_encoding=True, temporal_position_encoding_max_len=FRAMES)
    net = MotionModule(Layers(fused=True, group_norm_silu=group_norm_silu), C, config)
    for buffer in net.buffers():
        buffer.normal_()
    return net


class Names(TorchDispatchMode):
    """Names of the operations that were called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_each_position_is_seen_for_itself(module):
    attention = module.temporal_transformer.transformer_blocks[0].attention_blocks[0]
    past, x = torch.randn(2, BRANCHES, FRAMES, 6, C)
    out = attention.add_to(torch.zeros_like(x), x, attention.update_memory(past, None))
    for position in range(x.shape[2]):
        own = slice(position, position + 1)
        alone = attention.add_to(torch.zeros_like(x[:, :, own]), x[:, :, own], attention.update_memory(past[:, :, own], None))
        torch.testing.assert_close(out[:, :, own], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("branches", [1, BRANCHES])
@torch.no_grad()
def test_nothing_is_copied_where_channels_come_last(module, branches):
    past, x = torch.randn(2, branches * FRAMES, C, SIDE, SIDE)
    memory = module.update_memory(past, None, FRAMES)
    expected = module(x, memory, FRAMES)
    x = channels_last(x)
    torch.testing.assert_close(module(x, memory, FRAMES), expected, rtol=1e-5, atol=1e-5)

    module.temporal_transformer.norm.kernel = lambda x, *rest: torch.empty_like(x)  # in torch's own operations both reorder
    for attention in module.temporal_transformer.transformer_blocks[0].attention_blocks:
        attention.attention = lambda q, *rest: torch.empty(q.shape)
    with Names() as called:
        module(x, memory, FRAMES)
    assert "native_layer_norm" in called.names and not {"clone", "copy_", "_to_copy"} & set(called.names)
