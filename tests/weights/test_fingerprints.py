"""Digests of weights and tensors: what changes them, and that they do not ask where something lies."""

import hashlib

import pytest
import torch
from torch import nn

from memo_modules.types import Audio
from memo_modules.weights import fingerprints
from memo_modules.weights.fingerprints import audio_digest, block_values, tensor_digest, weights_digest


class OnCard(torch.Tensor):
    """A tensor that says it is on a GPU, and like one cannot be joined with tensors on the CPU, nor read by numpy."""

    device = torch.device("cuda", 0)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.cat and len({tensor.device for tensor in args[0]}) > 1:
            raise RuntimeError("Expected all tensors to be on the same device")
        if function is torch.Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        result = super().__torch_function__(function, types, args, kwargs)
        return result.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else result


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(100, 70), nn.BatchNorm1d(70))


@pytest.mark.parametrize("on_card", ["weight", "bias", "1", "running", ""])
def test_a_net_has_one_digest_wherever_its_parts_are(on_card):
    """As ComfyUI leaves one of which the GPU holds a part."""
    module = net()
    expected = weights_digest(module)
    state = {name: weight.as_subclass(OnCard) if on_card in name else weight for name, weight in module.state_dict().items()}
    module.state_dict = lambda: state
    assert weights_digest(module) == expected


@pytest.mark.parametrize("name", list(net().state_dict()))
def test_each_weight_counts(name):
    module, other = net(), net()
    other.state_dict()[name].view(-1)[0] += 1
    assert weights_digest(module) == weights_digest(net()) != weights_digest(other)


def test_a_tensor_has_one_digest_wherever_it_is():
    tensor = torch.arange(12.0).view(3, 4)
    assert tensor_digest(tensor) == tensor_digest(tensor.as_subclass(OnCard)) == tensor_digest(tensor.t().contiguous().t())
    assert len({tensor_digest(other) for other in (tensor, tensor.t(), tensor + 1, tensor.double())}) == 4


def test_hours_of_sound_are_read_a_part_at_a_time(monkeypatch):
    """And have the digest of the whole: of a sound that was cut out of a longer one, too."""
    whole, asked = torch.rand(2, 5000), []
    monkeypatch.setattr(fingerprints, "_BLOCK", 700)
    for sound in (whole, whole[:, 100:4000], whole[0, ::2], torch.tensor(1.0), torch.zeros(0)):
        data = sound.contiguous().numpy().tobytes()
        assert tensor_digest(sound) == hashlib.sha256(f"{sound.dtype} {list(sound.shape)}".encode() + data).hexdigest()
    tensor_digest(whole, lambda: asked.append(None))
    block_values(whole.view(100, 100), check_interrupt=lambda: asked.append(None))
    assert len(asked) == 15 + 15


STATES = torch.randn(3000, 2, 96, generator=torch.Generator().manual_seed(0)) + 3  # a part of them is the same everywhere


@pytest.mark.parametrize("frame", [0, 17, 1504, 2999])
def test_another_content_of_one_row_changes_its_block_and_no_other(frame):
    changed = STATES.clone()
    changed[frame] = STATES[frame].flip(-1)
    distance = (block_values(changed) - block_values(STATES)).norm(dim=-1) / block_values(STATES).norm(dim=-1)
    assert distance.argmax() == frame // 16 and distance.max() > 0.03 and distance.count_nonzero() == 1


def test_rounding_changes_a_block_as_little_as_the_tensor():
    rounded = STATES * (1 + 1e-3 * torch.randn(STATES.shape, generator=torch.Generator().manual_seed(1)))
    assert ((block_values(rounded) - block_values(STATES)).norm(dim=-1) / block_values(STATES).norm(dim=-1)).max() < 5e-3
    assert block_values(STATES[:17]).shape == (2, 64) and torch.equal(block_values(STATES[:17])[1, 4:], torch.zeros(60))


def test_every_sample_of_a_sound_counts_unless_it_is_told_what_it_is_made_of():
    sound = Audio(torch.rand(1, 1000), 16000)
    touched = Audio(sound.waveform.clone(), 16000)
    touched.waveform[0, 500] += 2**-15
    assert len({audio_digest(each) for each in (sound, touched, Audio(sound.waveform, 16001), Audio(sound.waveform[:, 1:], 16000))}) == 4
    assert audio_digest(Audio(sound.waveform, 16000, "mix")) == audio_digest(Audio(touched.waveform, 16000, "mix")) == "mix"
