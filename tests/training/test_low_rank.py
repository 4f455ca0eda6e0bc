"""Low-rank factors: what trains, what is written, and that it is what the nets were with them."""

import pytest
import torch
from accelerate import Accelerator

from memo_modules.errors import CheckpointError, InputError
from memo_modules.models.layers import Layers
from memo_modules.training.assembly import load_nets, load_vae, make_trainer
from memo_modules.training.checkpoint_folders import read_state
from memo_modules.training.loop import Trainer
from memo_modules.training.low_rank import FILE, LoraSettings, add_factors
from memo_modules.training.objective import training_loss
from memo_modules.training.parameters import MOTION_AND_AUDIO
from memo_modules.training.settings import read_settings
from memo_modules.weights.checkpoints import NETS, load_net
from memo_modules.weights.lora import read_lora, with_loras
from tests.helpers.training_world import write_training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_training(tmp_path_factory.mktemp("low_rank"), checkpointing=False)


def make(config, output_dir, *overrides: str, resume: str | None = None) -> Trainer:
    settings = read_settings(config, [f"output_dir={output_dir}", "lora.rank=4", "save_every=100", *overrides])
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    return make_trainer(settings, accelerator, load_vae(settings, accelerator.device), resume)


def run(trainer: Trainer) -> None:
    trainer.run(lambda log: None, lambda folder: None, lambda: False)


def loss_of(trainer: Trainer, nets) -> float:
    """Of the first batch, always with the same draws."""
    trainer._batches, counters, trainer.counters = None, trainer.counters, type(trainer.counters)()
    batch, [draws], _ = trainer._next_batch()
    trainer._batches, trainer.counters = None, counters
    with torch.no_grad():
        return training_loss(nets, batch, draws, robust_threshold=None).loss.item()


def test_factors_are_beside_every_matrix_of_what_trains_and_nothing_else_does(config, tmp_path):
    trainer = make(config, tmp_path)
    net = trainer.nets.diffusion_net
    layers = {
        name
        for name, module in net.named_modules()
        if ("motion_modules" in name or "audio_modules" in name)
        and "lora" not in name
        and (isinstance(module, torch.nn.Linear) or (isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1)))
    }
    assert {name.partition(".lora_")[0] for name in trainer.trained} == {f"diffusion_net.{name}" for name in layers}
    assert len(trainer.trained) == 2 * len(layers)
    training = {f"{name}.{key}" for name in NETS for key, each in getattr(trainer.nets, name).named_parameters() if each.requires_grad}
    assert training == trainer.trained.keys()


def test_new_factors_change_nothing_and_are_the_same_wherever_they_are_made(config, tmp_path):
    settings = read_settings(config)
    plain, nets, again = (load_nets(settings.checkpoint, torch.device("cpu"), torch.float32) for _ in range(3))
    trained = add_factors(nets, MOTION_AND_AUDIO, LoraSettings(2), seed=1)
    assert all(torch.equal(each, trained[name]) for name, each in add_factors(again, MOTION_AND_AUDIO, LoraSettings(2), seed=1).items())
    trainer = make(config, tmp_path)
    assert loss_of(trainer, nets) == loss_of(trainer, plain)


def test_the_loss_falls_and_merged_weights_are_the_nets_with_factors(config, tmp_path):
    trainer = make(config, tmp_path, "steps=12", "batch_size=2", "optimizer.learning_rate=3e-3", "lora.alpha=8")
    before = {name: weight.clone() for name, weight in trainer.nets.diffusion_net.state_dict().items() if "lora" not in name}
    first = loss_of(trainer, trainer.nets)
    run(trainer)
    trained = loss_of(trainer, trainer.nets)
    assert trained < 0.95 * first
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.nets.diffusion_net.state_dict().items() if name in before)
    checkpoint = tmp_path / "checkpoint-12"
    assert {path.name for path in checkpoint.iterdir()} == {FILE, "trainer.json", "trainer.safetensors"}
    lora = read_lora(checkpoint / FILE)
    nets = load_nets(trainer.settings.checkpoint, torch.device("cpu"), torch.float32)
    merged = load_net(trainer.settings.checkpoint, "diffusion_net", Layers(), change=lambda net, weights: with_loras([(lora, 1.0)], net, weights))
    nets.diffusion_net.load_state_dict(merged.state_dict())
    assert loss_of(trainer, nets) == pytest.approx(trained, rel=1e-4)
    half = load_net(trainer.settings.checkpoint, "diffusion_net", Layers(), change=lambda net, weights: with_loras([(lora, 0.5)], net, weights))
    nets.diffusion_net.load_state_dict(half.state_dict())
    assert trained < loss_of(trainer, nets) < first


def test_the_file_of_an_averaged_training_holds_the_average(config, tmp_path):
    trainer = make(config, tmp_path, "steps=2", "ema_decay=0.9", "optimizer.learning_rate=1e-2")
    run(trainer)
    lora = read_lora(tmp_path / "checkpoint-2" / FILE)
    _, tensors = read_state(tmp_path / "checkpoint-2")
    layer, factors = next(iter(lora.nets["diffusion_net"].items()))
    assert torch.equal(factors.up, tensors[f"average.diffusion_net.{layer}.lora_up.weight"])
    assert not torch.equal(factors.up, tensors[f"weights.diffusion_net.{layer}.lora_up.weight"])


def test_a_training_of_weights_is_not_continued_with_factors(config, tmp_path):
    run(make(config, tmp_path, "steps=1"))
    with pytest.raises(CheckpointError, match="trainable, lora and ema_decay"):
        make(config, tmp_path, "lora=null", resume="latest")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.rank=0"], "lora.rank: expected a whole number from 1 on, got 0"),
        (["lora.alpha=-1"], "lora.alpha: expected a number above 0 or null, got -1"),
        (["lora.ranks=3"], "lora.ranks: no such setting. Known here: rank, alpha"),
        (["trainable={diffusion_net: [pos_encoder]}"], "expected modules with linears or 1x1 convolutions"),
    ],
)
def test_what_cannot_train_is_refused(config, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        make(config, tmp_path, *overrides)
