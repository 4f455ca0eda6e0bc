"""Files to modules: what is wrong with a file is said by its name, its key and what was expected."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memo_modules.errors import CheckpointError
from memo_modules.models.config import DiffusionNetConfig, ReferenceNetConfig
from memo_modules.models.layers import Layers
from memo_modules.weights import checkpoints

FLOAT32 = Layers(dtype=torch.float32)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def checkpoint(tiny_models, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_models / "memo" / "tiny", tmp_path / "tiny"))


def load(checkpoint: Path) -> dict:
    return {net: checkpoints.load_net(checkpoint, net, FLOAT32) for net in checkpoints.NETS}


def test_all_nets_load_in_the_dtype_asked_for(checkpoint):
    nets = load(checkpoint)
    checkpoints.check_fit(checkpoint, nets)
    for net in nets.values():
        assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32}
        assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("net", ["reference_net", "diffusion_net"])
def test_a_fused_net_keeps_the_names_and_the_numbers_of_the_file(checkpoint, net):
    module = checkpoints.load_net(checkpoint, net, Layers(dtype=torch.float32, fused=True))
    weights, saved = load_file(checkpoints.weights_file(checkpoint / net)), module.state_dict()
    assert saved.keys() == weights.keys() != dict(module.named_parameters()).keys()
    assert all(torch.equal(saved[key], weights[key].float()) for key in weights)


def test_a_fused_net_names_what_is_missing(checkpoint):
    file = checkpoints.weights_file(checkpoint / "diffusion_net")
    weights = load_file(file)
    key = next(key for key in weights if key.endswith("attn1.to_k.weight"))
    save_file({name: tensor for name, tensor in weights.items() if name != key}, file)
    with pytest.raises(CheckpointError, match=key):
        checkpoints.load_net(checkpoint, "diffusion_net", Layers(dtype=torch.float32, fused=True))


def truncate(file: Path):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def rewrite(change):
    def apply(file: Path):
        weights = load_file(file)
        change(weights)
        save_file(weights, file)

    return apply


BROKEN_FILES = {
    "missing": (Path.unlink, "is missing"),
    "truncated": (truncate, "cannot be read as model weights"),
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "web page": (lambda file: file.write_text("<!DOCTYPE html><html>Not found</html>"), "is a web page"),
    "pointer": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "is a Git LFS pointer"),
    "folder": (lambda file: (file.unlink(), file.mkdir()), "is a folder"),
    "key missing": (rewrite(lambda weights: weights.pop("conv_in.weight")), "1 missing, first 'conv_in.weight'"),
    "foreign key": (rewrite(lambda weights: weights.update(extra=torch.ones(1))), "1 not of this model, first 'extra'"),
    "other shape": (
        rewrite(lambda weights: weights.update({"conv_in.bias": torch.ones(7)})),
        r"'conv_in.bias' has shape \[7\], expected \[64\]",
    ),
}


@pytest.mark.parametrize("broken", BROKEN_FILES)
@pytest.mark.parametrize("net", ["reference_net", "diffusion_net"])
def test_broken_weights_are_refused_by_name(checkpoint, net, broken):
    spoil, message = BROKEN_FILES[broken]
    spoil(checkpoint / net / WEIGHTS)
    with pytest.raises(CheckpointError, match=f"{net}.{WEIGHTS}.*{message}"):
        checkpoints.load_net(checkpoint, net, FLOAT32)


@pytest.mark.parametrize(
    ("net", "unused"),
    [
        ("reference_net", ["conv_norm_out.weight", "conv_out.bias", "up_blocks.3.attentions.{last}.transformer_blocks.0.attn1.to_q.weight"]),
        ("diffusion_net", ["up_blocks.3.audio_modules.{last}.transformer_blocks.0.audio_ff.net.0.proj.weight"]),
    ],
)
def test_what_the_reference_implementation_would_leave_out_may_be_there(checkpoint, net, unused):
    expected = checkpoints.load_net(checkpoint, net, FLOAT32)
    extra = {name.format(last=expected.config.layers_per_block): torch.ones(1) for name in unused}
    rewrite(lambda weights: weights.update(extra))(checkpoint / net / WEIGHTS)
    found = checkpoints.load_net(checkpoint, net, FLOAT32).state_dict()
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.state_dict().items())


def test_projection_of_another_kind(checkpoint):
    shutil.copy(checkpoint / "audio_proj" / WEIGHTS, checkpoint / "image_proj" / WEIGHTS)
    with pytest.raises(CheckpointError, match="image_proj.*does not hold a ImageProjection"):
        checkpoints.load_net(checkpoint, "image_proj", FLOAT32)


def test_config_that_is_missing_or_no_json(checkpoint):
    config = checkpoint / "reference_net" / "config.json"
    config.write_text("{")
    with pytest.raises(CheckpointError, match="config.json is not readable as JSON"):
        checkpoints.load_net(checkpoint, "reference_net", FLOAT32)
    config.unlink()
    with pytest.raises(CheckpointError, match="config.json is missing"):
        checkpoints.load_net(checkpoint, "reference_net", FLOAT32)


INTEGERS = {
    "int8": lambda tensor: (tensor * 100).to(torch.int8),
    "uint8": lambda tensor: torch.ones_like(tensor, dtype=torch.uint8),
    "int64": lambda tensor: tensor.long(),
    "bool": lambda tensor: tensor > 0,
    "complex64": lambda tensor: tensor.to(torch.complex64),
}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("pickled", [False, True])
def test_weights_that_are_no_floating_point_numbers(checkpoint, kind, pickled):
    file = checkpoint / "reference_net" / WEIGHTS
    weights = load_file(file)
    weights["conv_in.weight"] = INTEGERS[kind](weights["conv_in.weight"].float())
    save_file(weights, file)
    if pickled:
        torch.save(weights, file.with_suffix(".bin"))
        file.unlink()
    for header_only in (True, False):
        with pytest.raises(CheckpointError, match=f"diffusion_pytorch_model.*: 'conv_in.weight' is of {kind}, expected float16, bfloat16, float32"):
            checkpoints.load_net(checkpoint, "reference_net", FLOAT32, header_only)


@pytest.mark.parametrize("dtype", ["float64", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_weights_of_every_floating_point_type_load(checkpoint, dtype):
    file = checkpoint / "image_proj" / WEIGHTS
    weights = {key: tensor.to(getattr(torch, dtype)) for key, tensor in load_file(file).items()}
    save_file(weights, file)
    loaded = checkpoints.load_net(checkpoint, "image_proj", FLOAT32).state_dict()
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in weights.items())


def test_buffers_that_count_stay_whole_numbers():
    norm = torch.nn.BatchNorm1d(3)
    weights = {key: tensor.clone() for key, tensor in norm.state_dict().items()}
    checkpoints.assign_weights(torch.nn.BatchNorm1d(3, device="meta"), weights, Path("here"))
    with pytest.raises(CheckpointError, match="here: 'num_batches_tracked' is of float32, expected whole numbers"):
        checkpoints.assign_weights(norm, weights | {"num_batches_tracked": torch.tensor(1.0)}, Path("here"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_loads(checkpoint, zipped):
    folder = checkpoint / "reference_net"
    weights = load_file(folder / WEIGHTS)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in weights.items()}}
    torch.save(wrapped, folder / "diffusion_pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (folder / WEIGHTS).unlink()
    loaded = checkpoints.load_net(checkpoint, "reference_net", FLOAT32).state_dict()
    assert all(torch.equal(value, weights[key].float()) for key, value in loaded.items())


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


def test_code_in_a_pickle_does_not_run(checkpoint):
    folder = checkpoint / "reference_net"
    (folder / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Payload()}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        checkpoints.load_net(checkpoint, "reference_net", FLOAT32)
    assert not Payload.ran


@pytest.mark.parametrize(
    "option, value",
    [
        ("use_linear_projection", True),
        ("act_fn", "gelu"),
        ("class_embed_type", "timestep"),
        ("motion_module_resolutions", [1, 2]),
        ("down_block_types", ["DownBlock3D"] * 4),
        ("mid_block_type", "Other"),
        ("block_out_channels", [32, 64]),
        ("layers_per_block", [1, 2, 2, 2]),
        ("motion_module_kwargs", {"attention_block_types": ["Temporal_Cross"]}),
        ("motion_module_kwargs", {"sliding_window": 3}),
    ],
)
def test_option_that_is_not_supported_names_itself(option, value):
    name = next(iter(value)) if isinstance(value, dict) else option
    with pytest.raises(CheckpointError, match=f"here: .*{name}.*not supported|here: .*{name}"):
        DiffusionNetConfig.from_dict({option: value}, "here")


def test_unknown_and_null_options_are_ignored_as_the_published_classes_do():
    config = {"_class_name": "UNet2DConditionModel", "something_else": 3, "upcast_attention": None, "act_fn": "silu"}
    assert ReferenceNetConfig.from_dict(json.loads(json.dumps(config)), "here") == ReferenceNetConfig()
