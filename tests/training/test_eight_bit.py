"""AdamW with moments of 8 bits, by bitsandbytes, which is optional."""

import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from memo_modules.errors import InputError, MissingPackageError
from memo_modules.training.parameters import OptimizerSettings
from memo_modules.training.updates import EIGHT_BIT, Updates, ZeroUpdates

SETTINGS = OptimizerSettings(learning_rate=1e-3, kind="adamw_8bit")
ONE_PROCESS = SimpleNamespace(prepare=lambda module: module)


def updates(settings: OptimizerSettings) -> Updates:
    """Of a large parameter and a small one, as a training of bfloat16 nets has them."""
    torch.manual_seed(0)
    trained = {"net.large": torch.nn.Parameter(torch.randn(64, 96).bfloat16()), "net.small": torch.nn.Parameter(torch.randn(8).bfloat16())}
    return Updates(torch.nn.Module(), trained, settings, ONE_PROCESS)


def train(made: Updates, steps: range) -> None:
    for step in steps:
        for parameter in made.trained.values():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)).bfloat16()
        made.step(1e-3, 1.0)


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingPackageError, match="adamw_8bit needs bitsandbytes .*: pip install bitsandbytes, or use adamw"):
        updates(SETTINGS)


def test_it_moves_weights_as_adamw_does_and_continues_exactly(tmp_path):
    pytest.importorskip("bitsandbytes")
    ours, exact = updates(SETTINGS), updates(OptimizerSettings(learning_rate=1e-3))
    before = ours.weights()["net.large"].clone()
    for each in (ours, exact):
        train(each, range(6))
    moved, expected = ours.weights()["net.large"] - before, exact.weights()["net.large"] - before
    assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.99
    assert ours.optimizer.state[ours.optimizer.param_groups[0]["params"][0]]["state1"].dtype == torch.uint8
    save_file(ours.state(keep=True), tmp_path / "state.safetensors")
    resumed = updates(SETTINGS)
    resumed.load(load_file(tmp_path / "state.safetensors"))
    for each in (ours, resumed):
        train(each, range(6, 9))
    assert all(torch.equal(resumed.weights()[name], weight) for name, weight in ours.weights().items())


@pytest.mark.parametrize(("kind", "part"), [("adamw", EIGHT_BIT[0]), ("adamw_8bit", "exp_avg")])
def test_a_checkpoint_of_the_other_kind_is_refused(kind, part):
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    made = updates(OptimizerSettings(kind=kind))
    tensors = {f"weights.{name}": weight for name, weight in made.weights().items()} | {f"{part}.net.large": torch.zeros(64, 96)}
    with pytest.raises(InputError, match=f"optimizer.kind: the checkpoint is not of {kind}"):
        made.load(tensors)


def test_deepspeed_shares_out_adamw_alone():
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2, deepspeed_config={})), mixed_precision="no")
    with pytest.raises(InputError, match="expected adamw, got adamw_8bit"):
        ZeroUpdates(torch.nn.Module(), {}, SETTINGS, accelerator, 1)
