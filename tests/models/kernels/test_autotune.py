"""Of several backends of one computation, the fastest that computes the same is used."""

import json
import logging
import sys
import time
import types
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from memo_modules.models import acceleration
from memo_modules.models.acceleration import attention_backends, autotune_kernels, kernel_backends
from memo_modules.models.attention import SelfAttention
from memo_modules.models.config import DiffusionNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.kernels import autotune
from memo_modules.models.kernels.autotune import Autotuned
from memo_modules.models.kernels.geglu import geglu
from memo_modules.models.kernels.group_norm_silu import group_norm_silu
from memo_modules.models.kernels.memory_attention import memory_attention
from memo_modules.models.layers import Layers, channels_last, sdpa
from tools.benchmarking import random_nets

HEADS = 2


def slow_down() -> None:
    time.sleep(0.01)


def slow(*case):
    slow_down()
    return sdpa(*case)


def quick(*case):
    return sdpa(*case)


def wrong(q, k, v, heads):
    return sdpa(q, k, v, heads) * 1.01


def broken(q, k, v, heads):
    return torch.full_like(q, torch.nan)


def failing(*case):
    raise RuntimeError("Failed to find C compiler.\nSet CC.")


def sample(head_dim: int = 4) -> tuple:
    generator = torch.Generator().manual_seed(0)
    return *torch.randn(3, 1, 5, HEADS * head_dim, generator=generator), HEADS


def test_the_fastest_is_used_for_heads_like_those_it_was_chosen_for():
    attention = Autotuned("attention", {"slow": slow, "quick": quick})
    assert attention.chosen == {}
    attention.tune(sample(4))
    assert attention.chosen == {4: "quick"}
    start = time.perf_counter()
    attention(*sample(8))
    assert time.perf_counter() - start >= 0.01  # of other heads nothing is known
    assert torch.equal(attention(*sample(4)), sdpa(*sample(4)))


@pytest.mark.parametrize(("seconds", "chosen"), [(1.1, "slow"), (1.0, "slow"), (0.95, "slow"), (0.85, "quick")])
def test_another_than_the_first_is_used_where_it_is_faster_by_a_tenth(monkeypatch, seconds, chosen):
    monkeypatch.setattr(autotune, "_time", lambda run: {slow: 1.0, quick: seconds}[run.func])
    attention = Autotuned("attention", {"slow": slow, "quick": quick})
    attention.tune(sample())
    assert attention.chosen == {4: chosen}


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (wrong, "attention: other differs by 1.0e-02"),
        (broken, "attention: other differs by nan"),
        (failing, "does not run here (Failed to find C compiler.)"),
    ],
)
def test_a_backend_that_fails_or_computes_something_else_is_left_out(backend, said, caplog):
    attention = Autotuned("attention", {"slow": slow, "other": backend})
    with caplog.at_level(logging.INFO):
        attention.tune(sample())
    assert attention.chosen == {4: "slow"}
    assert said in caplog.text


def for_five_tokens_alone(q, k, v, heads):
    return sdpa(q, k, v, heads) if k.shape[1] == 5 else broken(q, k, v, heads)


def failing_beyond_five_tokens(q, k, v, heads):
    return sdpa(q, k, v, heads) if k.shape[1] == 5 else failing()


@pytest.mark.parametrize("backend", [for_five_tokens_alone, failing_beyond_five_tokens])
def test_a_backend_that_does_not_do_for_all_shapes_is_left_out(backend):
    attention = Autotuned("attention", {"slow": slow, "other": backend})
    q, k, v, heads = sample()
    attention.tune(sample(), (q, k[:, :3], v[:, :3], heads))
    assert attention.chosen == {4: "slow"}


def test_where_the_first_form_fails_nothing_is_chosen(caplog):
    attention = Autotuned("attention", {"first": failing, "quick": quick})
    with caplog.at_level(logging.INFO):
        attention.tune(sample())
    assert attention.chosen == {} and "first does not run here" in caplog.text


def test_a_card_is_asked_for_the_time_of_a_call(monkeypatch):
    """With a GPU's clock made of the calls themselves; a real one is measured by tools/bench.py."""
    clock = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(clock)

        def synchronize(self):
            assert self.at

        def elapsed_time(self, stop):
            return 2.0 * (stop.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    assert autotune._time_on_card(lambda: clock.append(1)) == 0.002


def test_every_width_of_a_net_is_chosen_for():
    config = DiffusionNetConfig.from_dict(random_nets.options("diffusion_net", "tiny") | {"block_out_channels": [32, 64, 64, 64]}, "net")
    attention = Autotuned("attention", {"slow": slow, "quick": quick})
    memory = Autotuned("memory attention", {"one": memory_attention, "other": lambda *case: memory_attention(*case)})
    gate = Autotuned("geglu", {"one": geglu, "other": lambda *case: geglu(*case)})
    norm = Autotuned("norm", {"one": group_norm_silu, "other": lambda *case: group_norm_silu(*case)})
    layers = Layers(attention=attention, memory_attention=memory, geglu=gate, group_norm_silu=norm)
    autotune_kernels(layers, config, torch.device("cpu"), torch.float32, side=16)
    assert attention.chosen.keys() == memory.chosen.keys() == {4, 8}
    assert gate.chosen.keys() == {256, 512}
    groups = [module for module in DiffusionNet(config, layers).modules() if isinstance(module, nn.GroupNorm)]
    assert norm.chosen.keys() == {module.num_channels // module.num_groups for module in groups} == {1, 2, 3, 4}


def test_a_video_that_continues_takes_what_it_was_begun_with(caplog):
    config = DiffusionNetConfig.from_dict(random_nets.options("diffusion_net", "tiny"), "net")
    attention = Autotuned("attention", {"slow": slow, "quick": quick})
    gate = Autotuned("geglu", {"one": geglu, "other": geglu})
    net = DiffusionNet(config, Layers(attention=attention, geglu=gate))
    assert acceleration.choices(net) == {}
    attention.chosen |= {4: "slow", 8: "quick"}
    begun = acceleration.choices(net)
    assert json.loads(json.dumps(begun)) == begun == {"attention": {"4": "slow", "8": "quick"}}
    attention.chosen |= {4: "quick", 8: "quick", 16: "quick"}
    with caplog.at_level(logging.INFO):
        acceleration.choose(begun | {"geglu": {"32": "no longer there"}, "another": {"4": "slow"}}, net)
    assert attention.chosen == {4: "slow", 8: "quick", 16: "quick"} and gate.chosen == {}
    assert caplog.messages == ["attention: 4 slow, as the video was begun."]


def test_a_backend_may_overwrite_what_it_is_given():
    gate = Autotuned("geglu", {"slow": lambda x: slow_down() or geglu(x), "quick": geglu})
    gate.tune((torch.randn(3, 8),))
    assert gate.chosen == {8: "quick"}


def test_without_a_card_there_is_nothing_to_choose_from():
    in_torch = {"memory_attention": memory_attention, "geglu": geglu, "group_norm_silu": group_norm_silu}
    for capability in (None, (7, 5)):
        assert kernel_backends(capability) == {name: {"torch": backend} for name, backend in in_torch.items()}
    assert attention_backends(None) == {} and "Triton" not in attention_backends((7, 5))


@pytest.mark.parametrize("backend", [quick, attention_backends((7, 5))["cuDNN"]], ids=["torch", "cuDNN"])
@torch.inference_mode()
def test_what_is_chosen_is_part_of_a_compiled_region(backend):
    attention = Autotuned("attention", {"slow": slow, "quick": backend})
    attention.tune(sample())
    assert attention.chosen == {4: "quick"}
    layer, x = SelfAttention(Layers(attention=attention), 8, HEADS), torch.randn(1, 5, 8)
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x), atol=1e-6)


def test_amds_cards_try_what_is_not_written_for_nvidias(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert autotune.capability_of(torch.device("cuda")) == autotune.AMD
    assert autotune.capability_of(torch.device("cpu")) is None
    formats, tried = iter((True, False)), []
    monkeypatch.setattr(acceleration, "channels_last_pays", lambda *asked: tried.append(asked) or next(formats))
    for last in (True, False):
        layers = acceleration.for_device(Layers(dtype=torch.float16), autotune.AMD, on_cpu=False, attention={"host": sdpa})
        assert (layers.to_memory_format is channels_last) is last
        assert list(layers.attention.backends) == ["host"]
        competing = ["torch", "Triton"] if find_spec("triton") else ["torch"]
        assert all(list(getattr(layers, name).backends) == competing for name in ("memory_attention", "geglu", "group_norm_silu"))
    assert tried == [(torch.device("cuda"), torch.float16)] * 2


@pytest.mark.parametrize(("delay", "wrong", "pays"), [(0.0, 0.0, True), (0.05, 0.0, False), (0.0, 1.0, False)], ids=["faster", "slower", "wrong"])
def test_channels_last_has_to_pay(monkeypatch, delay, wrong, pays):
    """On a machine where either takes as long as it does here, and one a tenth of a second more."""
    convolve = torch.nn.functional.conv2d

    def conv2d(x, weight, **options):
        last = x.is_contiguous(memory_format=torch.channels_last)
        time.sleep(delay if last else 0.02)
        return convolve(x, weight, **options)[:1, :1] + wrong * last

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.ones(shape, **options)[..., :8])
    assert acceleration.channels_last_pays(torch.device("cpu"), torch.float32, pictures=1) is pays


def test_a_triton_that_cannot_be_imported_is_done_without(monkeypatch, caplog):
    """As one of Windows whose libraries are of another version."""

    class Broken:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "triton.language":
                raise ImportError("DLL load failed while importing libtriton")

    monkeypatch.setattr(acceleration, "find_spec", lambda name: name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", types.ModuleType("triton"))
    sys.modules["triton"].__path__ = []
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    assert "Triton" not in acceleration.attention_backends((8, 9))
    assert all(list(backends) == ["torch"] for backends in acceleration.kernel_backends((8, 9)).values())
    assert "DLL load failed" in caplog.text
