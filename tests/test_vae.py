"""VAEs of any width: found, loaded, refused by their files, and made wider where ComfyUI's class needs it."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from memo_modules.errors import CheckpointError
from memo_modules.store import finding
from memo_modules.store.catalogue import CATALOGUE
from memo_modules.vae import VAE_WEIGHTS, autoencoder_shapes, check_autoencoder, load_autoencoder, load_widened, own_name, widened
from tests.helpers.vae_cases import SPOILT, write_blank
from tools.make_tiny_checkpoint import old_name

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": 4}


@pytest.fixture
def folder(tiny_models, tmp_path) -> Path:
    """A VAE in the folder of a checkpoint."""
    return Path(shutil.copytree(tiny_models / "vae" / "sd-vae-ft-mse", tmp_path / "memo" / "mine" / "vae"))


@pytest.mark.parametrize(("widths", "groups"), [((16, 32, 48, 48), 4), ((24, 24, 48, 48), 8), ((32, 64, 64, 64), 16)])
def test_a_widened_vae_computes_the_same(widths, groups):
    torch.manual_seed(0)
    narrow = AutoencoderKL(**BLOCKS, block_out_channels=widths, layers_per_block=1, norm_num_groups=groups).eval()
    for parameter in narrow.parameters():
        if parameter.ndim == 1:  # norms and biases that do something
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    weights, config = widened(narrow.state_dict(), dict(narrow.config))
    assert all(c % 32 == 0 for c in config["block_out_channels"])
    wide = AutoencoderKL.from_config(config).eval()
    wide.load_state_dict(weights)
    pictures, latents = torch.randn(2, 3, 32, 32), torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(wide.encode(pictures).latent_dist.parameters, narrow.encode(pictures).latent_dist.parameters, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(wide.decode(latents).sample, narrow.decode(latents).sample, rtol=1e-5, atol=1e-5)


def test_the_published_widths_stay(folder):
    config = json.loads((folder / "config.json").read_text()) | {"block_out_channels": (32, 64, 64, 64), "norm_num_groups": 32}
    weights = AutoencoderKL.from_config(config).state_dict()
    padded, wide = widened(weights, config)
    assert wide == config
    assert padded.keys() == weights.keys() and all(torch.equal(padded[key], weights[key]) for key in weights)


def test_a_vae_in_a_checkpoint_is_listed_by_its_name(folder, tiny_models):
    assert finding.find("vae", [folder.parents[1]]).found == {"mine": folder}
    assert list(finding.find("vae", [tiny_models / "vae"]).found) == ["sd-vae-ft-mse"]
    assert finding.find("vae", [tiny_models / "memo"]).found == {}, "no other folder with a config.json"


def test_it_loads_from_a_folder_in_any_dtype(folder):
    vae = load_autoencoder(folder, torch.bfloat16)
    stored = load_file(folder / VAE_WEIGHTS)
    assert vae.dtype == torch.bfloat16 and not vae.training
    torch.testing.assert_close(vae.quant_conv.weight, stored["quant_conv.weight"].bfloat16())


def test_the_published_file_has_older_names(folder):
    """Its size, which the catalogue knows, is that of a file with these names and shapes; today's would make it 8 bytes shorter."""
    [file] = CATALOGUE["vae"].files
    shapes = json.loads((ROOT / "tests" / "manifests" / "manifest_vae.json").read_text(encoding="utf-8"))["keys"]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for key, shape in sorted((old_name(key), shape) for key, shape in shapes.items()):
        start, end = end, end + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    assert file.size == 8 + length + -length % 8 + end
    assert any("attentions.0.query" in key for key in load_file(folder / VAE_WEIGHTS)), "and so has the tiny one"


def test_old_names_and_new_ones_load_alike(folder):
    """From a folder and from a file; diffusers itself renames the old ones."""
    picture, expected = torch.randn(1, 3, 64, 64), AutoencoderKL.from_pretrained(folder).eval()
    vae = load_autoencoder(folder)
    with torch.no_grad():
        assert torch.equal(vae.encode(picture).latent_dist.mean, expected.encode(picture).latent_dist.mean)
    save_file(vae.state_dict(), folder / VAE_WEIGHTS)
    assert all(map(torch.equal, load_autoencoder(folder).state_dict().values(), vae.state_dict().values()))


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_no_vae_of_ours_is_refused_in_words(folder, name):
    """By the list, by ComfyUI's way of loading and by diffusers' alike; comfyui/test_vae_files.py asks ComfyUI itself."""
    spoil, words = SPOILT[name]
    spoil(folder)
    for read in (check_autoencoder, load_autoencoder, load_widened):
        with pytest.raises(CheckpointError) as error:
            read(folder)
        assert str(error.value).startswith(str(folder)) and words in str(error.value)
    if name not in ("another class", "a list for a config", "no config"):  # other folders have such a config.json
        listing = finding.find("vae", [folder.parents[1]])
        assert listing.found == {} and words in listing.refused["mine"]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("widths", [(128, 256, 512, 512), (8, 8, 16, 8)])
def test_the_weights_of_a_vae_are_those_that_diffusers_makes(widths, layers):
    with torch.device("meta"):
        built = AutoencoderKL(**BLOCKS, block_out_channels=widths, layers_per_block=layers, norm_num_groups=4).state_dict()
    assert {key: tuple(value.shape) for key, value in built.items()} == autoencoder_shapes({"block_out_channels": widths, "layers_per_block": layers})


PUBLISHED = autoencoder_shapes({"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2})
OWN = {own_name(key): (*shape, 1, 1) if len(shape) == 2 else shape for key, shape in PUBLISHED.items()}
"""Of Stable Diffusion's own code, whose attention is made of convolutions."""


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (PUBLISHED, None),
        ({old_name(key): shape for key, shape in PUBLISHED.items()}, None),
        (OWN, None),
        (OWN | {"loss.logvar": (), "model_ema.decay": ()}, None),
        (PUBLISHED | {"loss.logvar": ()}, "1 not of this model, first 'loss.logvar'"),
        (OWN | {"x": (1,)}, "does not fit the VAE of Stable Diffusion 1: 248 keys expected, 249 found; 1 not of this model, first 'x'"),
        ({key: shape for key, shape in OWN.items() if key != "quant_conv.bias"}, "1 missing, first 'quant_conv.bias'"),
        (OWN | {"encoder.conv_in.weight": (500, 3, 3, 3)}, "'encoder.conv_in.weight' has shape [500, 3, 3, 3], expected [128, 3, 3, 3]"),
        (PUBLISHED | {"decoder.conv_in.weight": (512, 16, 3, 3)}, "is the VAE of another model: 16 latent channels"),
        ({"taesd_decoder.1.weight": (64, 4, 3, 3)}, "is not a VAE: 'decoder.conv_in.weight' is missing"),
    ],
)
def test_single_files_of_vaes_are_listed_and_others_refused(tmp_path, shapes, words):
    place = write_blank(tmp_path / "vae" / "one.safetensors", shapes)
    listing = finding.find("vae", [place.parent])
    if words is None:
        assert listing.found == {"one.safetensors": place}
    else:
        assert listing.found == {} and words in listing.refused["one.safetensors"]
        with pytest.raises(CheckpointError):
            load_autoencoder(place)
