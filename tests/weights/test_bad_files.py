"""Model files that are damaged, foreign or made to harm: a sentence each, and neither time nor memory is spent on them."""

import io
import json
import os
import signal
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file

from memo_modules.audio.emotion import load_emotion_classifier
from memo_modules.audio.emotion2vec import load_emotion2vec
from memo_modules.audio.encoder_config import EncoderConfig
from memo_modules.audio.features import AudioEncoder, check_audio_encoder, load_audio_encoder
from memo_modules.errors import CheckpointError, InputError
from memo_modules.models.layers import Layers
from memo_modules.preparation.tensor_files import read_rows, shape_and_rate
from memo_modules.store.converting import pickle_to_safetensors
from memo_modules.vae import autoencoder_weights, check_autoencoder, load_autoencoder
from memo_modules.weights import checkpoints, checks

FLOAT32 = Layers(dtype=torch.float32)
WEIGHTS = "diffusion_pytorch_model.safetensors"
REPAIR = f" {checks.REPAIR}"
HUGE = 10**9


@pytest.fixture
def copy(tmp_path) -> Callable[[Path, str, Callable[[bytes], bytes]], Path]:
    """A folder with links to the files of another, but for one that is changed."""

    def copy(folder: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
        place = tmp_path / folder.name
        place.mkdir()
        for file in folder.iterdir():
            (place / file.name).symlink_to(file)
        content = change((folder / name).read_bytes())
        (place / name).unlink()
        (place / name).write_bytes(content)
        return place

    return copy


def config(**changes) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


def motion(**changes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        options = json.loads(content)
        return json.dumps(options | {"motion_module_kwargs": options["motion_module_kwargs"] | changes}).encode()

    return change


UNSUPPORTED = ", which is not supported."
FOUR = "4 whole numbers"
TEMPORAL = "expected 1 to 16 times 'Temporal_Self'"
CONFIGS = {
    "endless layers": (config(layers_per_block=HUGE), f"layers_per_block: expected a whole number from 1 to 16, got {HUGE}{UNSUPPORTED}"),
    "layers per level": (
        config(layers_per_block=[1, 2, 2, 2]),
        f"layers_per_block: expected a whole number from 1 to 16, got [1, 2, 2, 2]{UNSUPPORTED}",
    ),
    "half a layer": (config(layers_per_block=1.5), f"layers_per_block: expected a whole number from 1 to 16, got 1.5{UNSUPPORTED}"),
    "channels in words": (config(block_out_channels="abcd"), f"block_out_channels: expected {FOUR} from 1 to 8192, got 'abcd'{UNSUPPORTED}"),
    "huge channels": (
        config(block_out_channels=[64, 64, 64, 2**62]),
        f"block_out_channels: expected {FOUR} from 1 to 8192, got [64, 64, 64, {2**62}]{UNSUPPORTED}",
    ),
    "channels that are no numbers": (
        config(block_out_channels=[64, 64, None, 64]),
        f"block_out_channels: expected {FOUR} from 1 to 8192, got [64, 64, None, 64]{UNSUPPORTED}",
    ),
    "no heads": (
        config(attention_head_dim=0),
        f"attention_head_dim: expected a whole number from 1 to 256, or {FOUR} from 1 to 256, got 0{UNSUPPORTED}",
    ),
    "heads that leave a rest": (config(attention_head_dim=7), "block_out_channels (64, 64, 64, 64) is not divisible by attention_head_dim 7."),
    "no groups": (config(norm_num_groups=0), f"norm_num_groups: expected a whole number from 1 to 8192, got 0{UNSUPPORTED}"),
    "groups that leave a rest": (config(norm_num_groups=48), "block_out_channels (64, 64, 64, 64) is not divisible by norm_num_groups 48."),
    "epsilon in words": (config(norm_eps="1e-5"), f"norm_eps: expected a number between 0 and 1, got '1e-5'{UNSUPPORTED}"),
    "a truth in words": (config(use_inflated_groupnorm="yes"), f"use_inflated_groupnorm: expected true or false, got 'yes'{UNSUPPORTED}"),
    "blocks by number": (
        config(down_block_types=4),
        f"down_block_types: expected ('CrossAttnDownBlock', 'CrossAttnDownBlock', 'CrossAttnDownBlock', 'DownBlock') (2D or 3D), got 4{UNSUPPORTED}",
    ),
    "motion in a list": (config(motion_module_kwargs=[1]), f"motion_module_kwargs: expected options by name, got [1]{UNSUPPORTED}"),
    "endless motion": (
        motion(num_transformer_block=HUGE),
        f"motion_module_kwargs: num_transformer_block: expected a whole number from 1 to 16, got {HUGE}{UNSUPPORTED}",
    ),
    "motion by number": (motion(attention_block_types=2), f"motion_module_kwargs: attention_block_types: {TEMPORAL}, got 2{UNSUPPORTED}"),
    "motion times motion": (
        motion(num_transformer_block=16, attention_block_types=["Temporal_Self"] * 16),
        f"expected at most 32 for layers_per_block times num_transformer_block times the number of attention_block_types, got 256{UNSUPPORTED}",
    ),
    "no motion": (motion(attention_block_types=[]), f"motion_module_kwargs: attention_block_types: {TEMPORAL}, got []{UNSUPPORTED}"),
    "a number in a thousand digits": (
        config(layers_per_block=10**999),
        f"layers_per_block: expected a whole number from 1 to 16, got 1{'0' * 75} ...{UNSUPPORTED}",
    ),
    "a list for a config": (lambda content: b"[]", f"expected a JSON object, got list.{REPAIR}"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_that_no_net_has(tiny_models, copy, name):
    change, sentence = CONFIGS[name]
    place = copy(tiny_models / "memo" / "tiny" / "diffusion_net", "config.json", change)
    with pytest.raises(CheckpointError) as error:
        checkpoints.load_net(place.parent, "diffusion_net", FLOAT32)
    assert str(error.value) == f"{place / 'config.json'}: {sentence}"


@pytest.mark.parametrize("content", [b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"a":' + b"[" * 30 + b"]" * 30 + b"}"])
def test_config_nested_too_deeply(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config.json is not readable as JSON \(nested too deeply\)"):
        checkpoints.read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{" + b" " * 2**22 + b"}", "larger than 4 MB"),
        (b'{"a": "' + b"\xff" * 9 + b'"}', "can't decode"),
        (b"\0" * 100, "Expecting value"),
    ],
)
def test_config_that_is_no_json(tmp_path, content, reason):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"config.json is not readable as JSON .*({reason})") as error:
        checkpoints.read_json(tmp_path / "config.json")
    assert len(str(error.value)) < 600


def pipes() -> dict[str, Callable[[Path], object]]:
    """What opens a model's file, by a name that it may have."""
    return {
        "config.json": checkpoints.read_json,
        "a.safetensors": checkpoints.read_weights,
        "b.safetensors": checkpoints.read_configs,
        "a.bin": checkpoints.read_weights,
        "model.pt": load_emotion2vec,
        "emotion2vec.safetensors": lambda path: load_emotion2vec(path, header_only=True),
        "b.pt": lambda path: pickle_to_safetensors(path, path.with_suffix(".safetensors")),
        "vae.safetensors": check_autoencoder,
        "face.pt": lambda path: read_rows(path, "face_emb"),
        "face.safetensors": lambda path: read_rows(path, "face_emb"),
        "audio.safetensors": lambda path: shape_and_rate(path, "audio_emb"),
    }


@pytest.mark.skipif(os.name != "posix", reason="there are no named pipes")
@pytest.mark.parametrize("name", pipes())
def test_a_named_pipe_keeps_nobody_waiting(tmp_path, name):
    def stop(*_):
        raise TimeoutError(f"{name} was waited for")

    os.mkfifo(tmp_path / name)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    try:
        with pytest.raises((CheckpointError, InputError), match=f"{name} cannot be read .it is a named pipe, not a file"):
            pipes()[name](tmp_path / name)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def header(change: Callable[[dict], dict]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        written = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
        return struct.pack("<Q", len(written)) + written + content[8 + size :]

    return changed


def reshaped(key: str, shape: list[int]) -> Callable[[bytes], bytes]:
    return header(lambda entries: entries | {key: entries[key] | {"shape": shape}})


def doubled(key: bytes, entry: bytes | None = None) -> Callable[[bytes], bytes]:
    """A header with an entry of ``key`` before that which is there, by default the same."""

    def changed(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        written = content[8 : 8 + size]
        at = written.index(b'"' + key + b'"')
        one = entry or written[at : written.index(b"}", at) + 1]
        written = written[:at] + one + b"," + written[at:]
        return struct.pack("<Q", len(written)) + written + content[8 + size :]

    return changed


WEIGHT_FILES = {
    "a name twice": (doubled(b"norm.weight"), "cannot be read as model weights (its header has 'norm.weight' twice)"),
    "a name twice, once with an escape": (
        doubled(b"norm.weight", b'"norm\\u002eweight":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}'),
        "cannot be read as model weights",
    ),
    "a shape twice": (doubled(b"shape", b'"shape":[64]'), "cannot be read as model weights"),
    "a header of 9 MB": (
        header(lambda entries: entries | {"__metadata__": {"x": "y" * 9 * 2**20}}),
        "cannot be read as model weights (its header is larger",
    ),
    "header of exabytes": (lambda content: b"\xff" * 8 + content[8:], "cannot be read as model weights"),
    "header of 100 MB": (lambda content: struct.pack("<Q", 10**8 + 1) + content[8:], "cannot be read as model weights"),
    "no tensors": (header(lambda entries: {}), "cannot be read as model weights"),
    "a tensor beyond the end": (
        header(lambda entries: entries | {"norm.weight": {"dtype": "F32", "shape": [64], "data_offsets": [0, 2**40]}}),
        "cannot be read as model weights",
    ),
    "a vector instead of a matrix": (reshaped("proj.weight", [512 * 256]), "does not hold a ImageProjection"),
    "two tensors in one place": (
        header(lambda entries: entries | {"norm.weight": entries["proj.weight"]}),
        "cannot be read as model weights",
    ),
}


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_weights_that_no_net_has(tiny_models, copy, name):
    change, sentence = WEIGHT_FILES[name]
    place = copy(tiny_models / "memo" / "tiny" / "image_proj", WEIGHTS, change)
    for header_only in (True, False):
        with pytest.raises(CheckpointError) as error:
            checkpoints.load_net(place.parent, "image_proj", FLOAT32, header_only)
        assert str(error.value).startswith(f"{place / WEIGHTS} {sentence}")


def empty(path: Path, *keys: str) -> Path:
    """Tensors of no values, whose shapes claim what they like."""
    save_file({key: torch.empty(0, 8) for key in keys}, path)
    return path


def test_weights_without_values(tmp_path):
    proj = tmp_path / "image_proj"
    proj.mkdir()
    save_file({"norm.weight": torch.empty(0), "proj.weight": torch.empty(0, 8)}, proj / WEIGHTS)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} does not hold a ImageProjection"):
        checkpoints.load_net(tmp_path, "image_proj", FLOAT32)
    empty(proj / WEIGHTS, "layers.fc1.weight", "layers.fc2.bias")
    with pytest.raises(CheckpointError, match="distinguishes 0 emotions"):
        load_emotion_classifier(proj)
    key = "modality_encoders.AUDIO.project_features.2.weight"
    with pytest.raises(CheckpointError, match="is not an emotion2vec model"):
        load_emotion2vec(empty(tmp_path / "model.safetensors", key))


EMOTION2VEC = "modality_encoders.AUDIO."
BLOCKS = {
    "depth": [f"blocks.{i}.x" for i in range(20_000)],
    "prenet_depth": [f"{EMOTION2VEC}context_encoder.blocks.{i}.x" for i in range(20_000)],
    "conv_layers": [f"{EMOTION2VEC}local_encoder.conv_layers.{i}.0.weight" for i in range(4, 5000)],
    "conv_pos_depth": [f"{EMOTION2VEC}relative_positional_encoder.{i}.0.weight" for i in range(2, 5000)],
}


@pytest.mark.parametrize("size", BLOCKS)
@pytest.mark.parametrize("header_only", [True, False])
def test_blocks_of_emotion2vec_that_have_names_alone(tiny_models, tmp_path, size, header_only):
    """A file of 2 MB had an encoder of 20,000 blocks built, which a list waited for."""
    weights = checkpoints.read_weights(tiny_models / "memo" / "emotion2vec_plus_large" / "model.pt")
    weights = {key.removeprefix("d2v_model."): tensor for key, tensor in weights.items() if key.startswith("d2v_model.")}
    save_file(weights | {key: torch.empty(0, 0, 0) for key in BLOCKS[size] if key not in weights}, tmp_path / "model.safetensors")
    start = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        load_emotion2vec(tmp_path / "model.safetensors", header_only=header_only)
    assert str(error.value).startswith(f"{tmp_path / 'model.safetensors'}: {size}: expected ") and len(str(error.value)) < 500
    assert time.monotonic() - start < 5


def test_layers_of_a_classifier_that_have_names_alone(tmp_path):
    folder = tmp_path / "audio_emotion_classifier"
    folder.mkdir()
    empty(folder / WEIGHTS, *(f"layers.fc{i}.weight" for i in range(1, 20_000)))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="depth: expected a whole number from 1 to 64, got 19999, which is not supported"):
        load_emotion_classifier(folder, header_only=True)
    assert time.monotonic() - start < 5


def test_metadata_of_a_single_file(tmp_path):
    for entry in ("[" * 100_000, "3", '{"image_proj": 1}', "{"):
        save_file({"image_proj.a": torch.zeros(1)}, tmp_path / "whole.safetensors", metadata={"memo": entry})
        with pytest.raises(CheckpointError, match="its metadata has 'memo' without configs in it"):
            checkpoints.load_net(tmp_path / "whole.safetensors", "image_proj", FLOAT32)


def test_an_audio_encoder_of_whole_numbers(tiny_models, copy):
    """Its weight norm is folded in floating point, which would hide them."""
    place = copy(tiny_models / "audio_encoders" / "wav2vec2-base-960h", "model.safetensors", lambda content: content)
    weights = load_file(place / "model.safetensors")
    [key] = [key for key in weights if key.endswith(("pos_conv_embed.conv.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"))]
    save_file(weights | {key: weights[key].to(torch.int8)}, place / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"model.safetensors: '{key}' is of int8, expected float16"):
        load_audio_encoder(place)


def test_a_vae_of_whole_numbers(tiny_models, copy):
    def whole(content: bytes) -> bytes:
        weights = load(content)
        return save(weights | {"decoder.conv_in.bias": weights["decoder.conv_in.bias"].to(torch.int8)})

    place = copy(tiny_models / "vae" / "sd-vae-ft-mse", WEIGHTS, whole)
    for read in (check_autoencoder, load_autoencoder, autoencoder_weights):
        with pytest.raises(CheckpointError, match=f"{WEIGHTS}: 'decoder.conv_in.bias' is of int8, expected float16"):
            read(place)


def test_weight_norm_that_does_not_fit(tiny_models, tmp_path, copy):
    place = copy(tiny_models / "audio_encoders" / "wav2vec2-base-960h", "model.safetensors", lambda content: content)
    weights = load_file(place / "model.safetensors")
    [key] = [key for key in weights if key.endswith(("pos_conv_embed.conv.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"))]
    save_file(weights | {key: torch.ones(1, 1, 3)}, place / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors: its position convolution has the wrong shape"):
        load_audio_encoder(place)


ACTIVATIONS = "expected 'gelu' or 'gelu_new' or 'relu' or 'silu' or 'swish'"
ENCODER = {
    "endless layers": (config(num_hidden_layers=HUGE), f"num_hidden_layers: expected a whole number from 1 to 96, got {HUGE}{UNSUPPORTED}"),
    "20,000 blocks": (config(num_hidden_layers=20_000), f"num_hidden_layers: expected a whole number from 1 to 96, got 20000{UNSUPPORTED}"),
    "a stride of nothing": (
        config(conv_stride=[5, 2, 2, 0, 2, 2, 2]),
        f"conv_stride: expected 1 to 32 whole numbers from 1 to 1024, got [5, 2, 2, 0, 2, 2, 2]{UNSUPPORTED}",
    ),
    "states without end": (config(conv_stride=[1] * 7), "conv_stride: expected numbers whose product is 80 to 1280, got 1."),
    "strides of hours": (config(conv_stride=[1024] * 7), f"conv_stride: expected numbers whose product is 80 to 1280, got {2**70}."),
    "kernels of seconds": (config(conv_kernel=[1024] * 7), "expected a state of at most 2000 samples, got 323269."),
    "other lengths": (config(conv_dim=[32]), "expected lists of the same length, got conv_dim of 1, conv_kernel of 7, conv_stride of 7."),
    "another count": (config(num_feat_extract_layers=3), "num_feat_extract_layers: expected 7, as conv_dim has numbers, got 3."),
    "unknown activation": (config(hidden_act="code()"), f"{ACTIVATIONS}, got 'code()'{UNSUPPORTED}"),
    "activation in a list": (config(feat_extract_activation=["gelu"]), f"{ACTIVATIONS}, got ['gelu']{UNSUPPORTED}"),
    "unknown norm": (config(feat_extract_norm="batch"), f"feat_extract_norm: expected 'group' or 'layer', got 'batch'{UNSUPPORTED}"),
    "heads that leave a rest": (config(num_attention_heads=7), "hidden_size 64 is not divisible by num_attention_heads 7."),
    "groups that leave a rest": (config(num_conv_pos_embedding_groups=5), "hidden_size 64 is not divisible by num_conv_pos_embedding_groups 5."),
    "a bias in words": (config(conv_bias="no"), f"conv_bias: expected true or false, got 'no'{UNSUPPORTED}"),
    "no epsilon": (config(layer_norm_eps=0), f"layer_norm_eps: expected a number between 0 and 1, got 0{UNSUPPORTED}"),
    "norms before": (config(do_stable_layer_norm=True), "do_stable_layer_norm: expected false, got true (a wav2vec2-large)."),
    "wider": (config(hidden_size=16384), "'encoder.layer_norm.bias' has shape [64], expected [16384] for AudioEncoder."),
    "more layers": (config(num_hidden_layers=96), "does not fit AudioEncoder: 1553 keys expected, 49 found; 1504 missing"),
}


@pytest.mark.parametrize("name", ENCODER)
def test_audio_encoder_that_cannot_be(tiny_models, copy, name):
    change, sentence = ENCODER[name]
    place = copy(tiny_models / "audio_encoders" / "wav2vec2-base-960h", "config.json", change)
    for read in (load_audio_encoder, check_audio_encoder):  # a list tells as much
        with pytest.raises(CheckpointError) as error:
            read(place)
        assert str(error.value).startswith(str(place)) and sentence in str(error.value)


IGNORED = {
    "adapters": {"add_adapter": True, "num_adapter_layers": 100_000, "output_hidden_size": 2**40, "adapter_attn_dim": 2**20},
    "labels": {"num_labels": 10**8},
    "labels by name": {"id2label": {str(i): "x" for i in range(10_000)}},
    "a type": {"torch_dtype": "bfloat16", "dtype": "float16"},
    "code": {"auto_map": {"AutoModel": "evil--model.Wav2Vec2Model"}, "trust_remote_code": True},
    "kernels": {"attn_implementation": "kernels-community/x", "_attn_implementation": "flex_attention", "experts_implementation": 3},
    "quantising": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "training": {"mask_time_prob": -1, "mask_time_length": 0, "layerdrop": "x", "hidden_dropout": 7, "feat_proj_dropout": [], "vocab_size": -1},
    "methods": {"from_dict": 3, "to_dict": "x", "attribute_map": {"hidden_size": "evil"}, "base_model_tp_plan": 1, "use_return_dict": {}},
}
"""What transformers would act on, and nothing here is made of."""


@pytest.mark.parametrize("name", IGNORED)
def test_audio_encoder_of_which_only_what_it_is_made_of_is_read(tiny_models, copy, name):
    place = copy(tiny_models / "audio_encoders" / "wav2vec2-base-960h", "config.json", config(**IGNORED[name]))
    plain = load_audio_encoder(tiny_models / "audio_encoders" / "wav2vec2-base-960h").state_dict()
    start, before = time.monotonic(), torch.get_default_dtype()
    check_audio_encoder(place)
    state = load_audio_encoder(place).state_dict()
    assert state.keys() == plain.keys() and all(torch.equal(state[key], plain[key]) for key in plain)
    assert {value.dtype for value in state.values()} == {torch.float32} and torch.get_default_dtype() == before
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "options", [{}, {"conv_bias": True, "feat_extract_norm": "layer"}, {"conv_dim": [8, 9], "conv_kernel": [4, 5], "conv_stride": [8, 10]}]
)
def test_the_weights_of_an_audio_encoder_are_those_that_transformers_makes(options):
    with torch.device("meta"):
        built = AudioEncoder(options | {"num_hidden_layers": 2}).state_dict()
    assert {key: tuple(value.shape) for key, value in built.items()} == EncoderConfig.from_dict(options | {"num_hidden_layers": 2}, "").shapes()


def recompressed(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, source.read(entry))
    return target.getvalue()


PLAIN = "is not a plain tensor that the file holds whole"
PICKLES = {
    "numbers for names": (lambda: {1: torch.ones(9), 2: torch.ones(9)}, "holds no tensors by name"),
    "tensors in a list": (lambda: [torch.ones(9)], "holds no tensors by name"),
    "a tensor alone": (lambda: torch.ones(9), "holds no tensors by name"),
    "one number a billion times": (lambda: {"a": torch.ones(1).expand(HUGE)}, PLAIN),
    "a sparse tensor": (lambda: {"a": torch.ones(3, 3).to_sparse()}, PLAIN),
    "a tensor of shape alone": (lambda: {"a": torch.empty(3, 3, device="meta")}, PLAIN),
    "a quantised tensor": (lambda: {"a": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}, PLAIN),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PICKLES)
def test_pickle_that_holds_no_weights(tmp_path, name):
    held, sentence = PICKLES[name]
    path = tmp_path / "model.bin"
    torch.save(held(), path)
    with pytest.raises(CheckpointError) as error:
        checkpoints.read_weights(path)
    assert str(path) in str(error.value) and sentence in str(error.value)
    with pytest.raises(CheckpointError):
        pickle_to_safetensors(path, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_compressed_archive(tmp_path, tiny_models):
    """It could hold a thousand times its size."""
    path = tmp_path / "model.bin"
    torch.save(load_file(tiny_models / "memo" / "tiny" / "image_proj" / WEIGHTS), path)
    assert checkpoints.read_weights(path)
    path.write_bytes(recompressed(path.read_bytes()))
    for read in (checkpoints.read_weights, lambda file: pickle_to_safetensors(file, tmp_path / "model.safetensors")):
        with pytest.raises(CheckpointError, match="model.bin .*a compressed archive, not a model in torch's format"):
            read(path)
