"""Folder layouts: what is listed under which name, and what is refused in which words. A name is found by the loaders too."""

import ctypes
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memo_modules.host import Host
from memo_modules.models.layers import Layers
from memo_modules.models.projections import AudioProjection
from memo_modules.store import finding, obtain
from memo_modules.store.catalogue import CATALOGUE
from memo_modules.store.converting import to_folder, to_single_files
from memo_modules.vae import autoencoder_shapes
from memo_modules.weights.checkpoints import NETS, load_net
from tests.helpers.vae_cases import write_blank

WEIGHTS = "diffusion_pytorch_model.safetensors"
ROLES = ("nets", "face_analysis", "vocal_separator", "emotion_classifier")


@pytest.fixture
def root(tmp_path) -> Path:
    """An empty model folder of the kind `memo`."""
    root = tmp_path / "models" / "memo"
    root.mkdir(parents=True)
    return root


def published(tiny_models, folder: Path) -> Path:
    """A folder in the layout of the published repository."""
    return Path(shutil.copytree(tiny_models / "memo" / "tiny", folder))


def found(role: str, *roots: Path) -> dict[str, Path]:
    return finding.find(role, list(roots)).found


def refused(role: str, *roots: Path) -> dict[str, str]:
    return finding.find(role, list(roots)).refused


def loads(checkpoint: Path) -> bool:
    return all(next(load_net(checkpoint, net, Layers()).parameters()).device.type == "cpu" for net in NETS)


def test_the_published_layout(tiny_models, root):
    folder = published(tiny_models, root / "memo")
    assert [list(found(role, root)) for role in ROLES] == [["memo"]] * 4
    assert found("nets", root) == {"memo": folder} and loads(folder)


def test_a_clone_has_more_than_is_needed(tiny_models, root):
    folder = published(tiny_models, root / "memo-main")
    for name in (".git/objects/ab", ".cache/huggingface"):
        (folder / name).mkdir(parents=True)
    (folder / "README.md").write_text("# MEMO")
    (folder / "misc/face_analysis/models/1k3d68.onnx").write_bytes(b"\x08")
    assert [list(found(role, root)) for role in ROLES] == [["memo-main"]] * 4


def test_the_root_itself(tiny_models, root):
    root.rmdir()
    published(tiny_models, root)
    assert [list(found(role, root)) for role in ROLES] == [["memo"]] * 4


@pytest.mark.parametrize(("folder", "name"), [("memo/memo", "memo"), ("downloads/memo", "downloads/memo")])
def test_one_level_too_deep(tiny_models, root, folder, name):
    published(tiny_models, root / folder)
    assert [list(found(role, root)) for role in ROLES] == [[name]] * 4


def test_face_models_one_level_too_deep(tiny_models, root):
    """The layout that insightface answers with `assert 'detection' in self.models`."""
    shutil.copytree(tiny_models / "memo/tiny/misc/face_analysis/models", root / "models/antelopev2/antelopev2")
    assert list(found("face_analysis", root)) == ["antelopev2"]


def test_links(tiny_models, tmp_path, root):
    (root / "linked folder").symlink_to(published(tiny_models, tmp_path / "elsewhere"))
    (root / "linked nets").mkdir()
    for net in NETS:
        (root / "linked nets" / net).symlink_to(tmp_path / "elsewhere" / net)
    (root / "circle").symlink_to(root)
    assert list(found("nets", root)) == ["linked folder", "linked nets"]


def test_extra_folders_come_last(tiny_models, tmp_path, root):
    extra = tmp_path / "another disk"
    both = published(tiny_models, root / "both")
    published(tiny_models, extra / "both")
    published(tiny_models, extra / "only there")
    assert found("nets", root, extra) == {"both": both, "only there": extra / "only there"}
    (both / "diffusion_net" / WEIGHTS).unlink()
    assert found("nets", root, extra)["both"] == extra / "both" and not refused("nets", root, extra)


def test_half_missing(tiny_models, root):
    folder = published(tiny_models, root / "memo")
    for net in ("diffusion_net", "audio_proj"):
        shutil.rmtree(folder / net)
    assert not found("nets", root)
    assert refused("nets", root) == {
        "memo": f"{folder}/diffusion_net/config.json is missing. Fetch this file again and put it where the README's model table says."
    }
    (folder / "misc/face_analysis/models/glintr100.onnx").unlink()
    assert "glintr100.onnx is missing" in refused("face_analysis", root)["memo"]


def test_empty_files(tiny_models, root):
    folder = published(tiny_models, root / "memo")
    for file in (f"reference_net/{WEIGHTS}", "misc/face_analysis/models/glintr100.onnx", "misc/vocal_separator/Kim_Vocal_2.onnx",
                 f"misc/audio_emotion_classifier/{WEIGHTS}"):  # fmt: skip
        (folder / file).write_bytes(b"")
    for role in ROLES:
        assert not found(role, root) and "is empty" in refused(role, root)["memo"]


def test_a_web_page_under_the_name_of_a_model(tiny_models, root):
    folder = published(tiny_models, root / "memo")
    page = "<!DOCTYPE html>\n<html><title>Sign in</title></html>"
    (folder / "image_proj" / WEIGHTS).write_text(page)
    (root / "memo.safetensors").write_text(page)
    (root / "emotion2vec").mkdir()
    (root / "emotion2vec/model.pt").write_text(page)
    faults = refused("nets", root) | refused("emotion2vec", root)
    assert faults.keys() == {"memo", "memo.safetensors", "emotion2vec"} and all("is a web page" in fault for fault in faults.values())


def test_a_truncated_file(tiny_models, root):
    file = published(tiny_models, root / "memo") / "diffusion_net" / WEIGHTS
    os.truncate(file, file.stat().st_size - 1)
    assert f"{file} cannot be read as model weights" in refused("nets", root)["memo"]


def test_a_foreign_key_set(tiny_models, root):
    folder = published(tiny_models, root / "memo")
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(3)}, folder / "reference_net" / WEIGHTS)
    assert "not of this model, first 'model.diffusion_model" in refused("nets", root)["memo"]
    save_file({"lora_up.weight": torch.zeros(3)}, root / "lora.safetensors")
    assert "lora.safetensors" not in refused("nets", root) | found("nets", root)  # it never said that it is MEMO


def test_a_config_of_another_model(tiny_models, root):
    config = published(tiny_models, root / "memo") / "diffusion_net" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 96}))
    assert "config.json" in refused("nets", root)["memo"]


def test_nets_of_two_models(tiny_models, root):
    folder = published(tiny_models, root / "memo")
    save_file(AudioProjection(Layers(), d_in=640, d_hidden=64, d=96).state_dict(), folder / "audio_proj" / WEIGHTS)
    assert "audio_proj does not belong to its diffusion_net: audio token width 96, expected 64" in refused("nets", root)["memo"]


class Payload:
    """Pickles to a call."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_pickle_with_code_is_listed_unopened_and_never_run(tiny_models, root, tmp_path):
    (root / "emotion2vec").mkdir()
    torch.save({"model": torch.zeros(9999), "args": Payload(tmp_path / "it ran")}, root / "emotion2vec/model.pt")
    assert list(found("emotion2vec", root)) == ["emotion2vec"]
    with pytest.raises(finding.CheckpointError, match="is not an emotion2vec model"):
        finding.load_emotion2vec(root / "emotion2vec/model.pt")
    assert not (tmp_path / "it ran").exists()


@contextmanager
def without_root_rights():
    """Let permissions count for root as for anybody else: the capabilities that ignore them are put away."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held, libc = (ctypes.c_uint32 * 6)(), ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, held) == 0
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        libc.capset(header, held)


def test_a_folder_without_permission(tiny_models, root):
    closed, other = published(tiny_models, root / "closed"), published(tiny_models, root / "other")
    secret = published(tiny_models, root / "secret") / "diffusion_net" / WEIGHTS
    closed.chmod(0)
    secret.chmod(0)
    try:
        with without_root_rights():
            listing = finding.find("nets", [root])
    finally:
        closed.chmod(0o755)
    assert listing.found == {"other": other}
    assert listing.refused["closed"] == f"{closed} cannot be read: permission denied. Give the user running ComfyUI read access."
    assert listing.refused["secret"].startswith(f"{secret} cannot be read: permission denied.")
    secret.chmod(0o644)  # as the message asks
    assert "secret" in found("nets", root)


@pytest.mark.parametrize("inside", ["", "audio_proj"])
def test_a_checkpoint_whose_files_must_not_be_looked_at_is_refused_alone(tiny_models, root, inside):
    """As after `chmod -R 644`, which takes the right to look into a folder."""
    shut, other = published(tiny_models, root / "shut"), published(tiny_models, root / "other")
    (shut / inside).chmod(0o644)
    try:
        with without_root_rights():
            listing = finding.find("nets", [root])
            faces = finding.find("face_analysis", [root])
    finally:
        (shut / inside).chmod(0o755)
    assert listing.found == {"other": other} and "permission denied" in listing.refused["shut"]
    assert "other" in faces.found
    assert "shut" in found("nets", root)


@pytest.mark.parametrize("place", ["", "memo", "memo/reference_net"])
def test_a_link_that_nobody_can_follow_hides_nothing(tiny_models, root, tmp_path, place):
    folder = published(tiny_models, root / "memo")
    (root / place / "in a circle").symlink_to("in a circle")
    closed = tmp_path / "closed"
    (closed / "inside").mkdir(parents=True)
    (root / place / "into a closed folder").symlink_to(closed / "inside")
    closed.chmod(0)
    try:
        with without_root_rights():
            listing = finding.find("nets", [root])
    finally:
        closed.chmod(0o755)
    assert listing == finding.Listing({"memo": folder}, {})


def test_a_finetuned_checkpoint(tiny_models, root):
    """Four nets and what the trainer needs to continue, no `misc`: the rest comes from the published folder."""
    published(tiny_models, root / "memo")
    folder = root / "finetuned" / "checkpoint-1000"
    for net in NETS:
        shutil.copytree(tiny_models / "memo/tiny" / net, folder / net)
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "pytorch_model.bin"):
        (folder / name).write_bytes(b"PK\x03\x04" + bytes(2**15))
    assert list(found("nets", root)) == ["memo", "finetuned/checkpoint-1000"]
    assert [list(found(role, root)) for role in ROLES[1:]] == [["memo"]] * 3


def test_single_files(tiny_models, root):
    tiny = tiny_models / "memo/tiny"
    to_single_files(tiny, root / "all in one.safetensors")
    to_single_files(tiny, root / "one per net", one_per_net=True)
    assert found("nets", root) == {"all in one.safetensors": root / "all in one.safetensors", "one per net": root / "one per net"}
    assert list(found("emotion_classifier", root)) == ["all in one.safetensors", "one per net"]
    assert loads(root / "all in one.safetensors") and loads(root / "one per net")
    (root / "one per net/audio_proj.safetensors").unlink()
    assert "audio_proj" in refused("nets", root)["one per net"]


def test_a_single_file_with_three_nets(tiny_models, root, tmp_path):
    for net in NETS[:3]:
        shutil.copytree(tiny_models / "memo/tiny" / net, tmp_path / "three" / net)
    to_single_files(tmp_path / "three", root / "three.safetensors")
    assert refused("nets", root) == {
        "three.safetensors": f"{root}/three.safetensors holds {', '.join(NETS[:3])}, expected audio_proj. Make a single file with scripts/convert.py."
    }


def test_a_pickled_net(tiny_models, root):
    folder = published(tiny_models, root / "memo")
    weights = load_file(folder / "reference_net" / WEIGHTS)
    (folder / "reference_net" / WEIGHTS).unlink()
    torch.save(weights, folder / "reference_net/diffusion_pytorch_model.bin")
    assert list(found("nets", root)) == ["memo"]
    (folder / "reference_net/diffusion_pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert "is too small for a model (4 bytes)" in refused("nets", root)["memo"]


@pytest.mark.parametrize(
    ("file", "listed"),
    [
        ("vae/kl.safetensors", True),
        ("VAE/kl.safetensors", True),
        ("vae/sd15/kl.safetensors", True),
        ("other/my_vae.safetensors", True),
        ("other/kl.safetensors", False),
        ("vae/sd15/kl.ckpt", False),
    ],
)
def test_vae_files(tmp_path, file, listed):
    path = write_blank(tmp_path / file, autoencoder_shapes({"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}))
    assert list(found("vae", tmp_path / file.partition("/")[0]).values()) == [path] * listed


def test_audio_encoders(tiny_models, tmp_path):
    root = Path(shutil.copytree(tiny_models / "audio_encoders", tmp_path / "audio_encoders"))
    assert list(found("audio_encoder", root)) == ["wav2vec2-base-960h"]
    config = root / "wav2vec2-base-960h/config.json"
    config.write_text(json.dumps({"model_type": "whisper"}))
    assert "expected 'wav2vec2'" in refused("audio_encoder", root)["wav2vec2-base-960h"]
    config.unlink()
    assert "config.json is missing" in refused("audio_encoder", root)["wav2vec2-base-960h"]


def test_a_judgement_is_kept_until_the_file_changes(tiny_models, root, monkeypatch):
    folder, opened = published(tiny_models, root / "memo"), []
    assert found("nets", root)
    monkeypatch.setattr(finding, "_ROLES", finding._ROLES | {"nets": finding._Role(finding._checkpoints, opened.append)})
    assert found("nets", root) and not opened
    os.utime(folder / "diffusion_net" / WEIGHTS)
    assert found("nets", root) and opened == [folder]


# By name


@pytest.fixture
def roots(tmp_path):
    return lambda kind: [tmp_path / "models" / kind]


def test_options_are_what_there_is_and_the_published_model(tiny_models, root, roots):
    assert obtain.offered("nets", roots) == {"memo": "10.3 GB"}
    published(tiny_models, root / "mine")
    assert list(obtain.offered("nets", roots).items()) == [("mine", ""), ("memo", "10.3 GB")]
    published(tiny_models, root / "memo")
    assert list(obtain.offered("nets", roots).items()) == [("memo", ""), ("mine", "")]


def test_a_name_that_is_not_there_or_refused_says_why(tiny_models, root, roots):
    folder = published(tiny_models, root / "mine")
    second = published(tiny_models, root / "yours")
    assert obtain.refusal("nets", "mine", roots) is None is obtain.refusal("nets", "memo", roots)
    assert "'other' is not among the models that were found (mine, yours)" in obtain.refusal("nets", "other", roots)
    shutil.rmtree(second)
    (folder / "audio_proj" / WEIGHTS).write_bytes(b"")
    assert "is empty" in obtain.refusal("nets", "mine", roots)
    with pytest.raises(finding.CheckpointError, match="is empty"):
        obtain.obtain("nets", "mine", roots, download=True)


@pytest.mark.parametrize("name", ["memo", "other"])
def test_the_only_other_model_stands_in_and_that_is_said(tiny_models, root, roots, name):
    folder, said = published(tiny_models, root / "mine"), []
    assert obtain.refusal("nets", name, roots) is None
    assert obtain.obtain("nets", name, roots, host=Host(say=said.append)) == folder
    assert said == [f"The set of MEMO's four nets: '{name}' is not there, 'mine' is used instead."]
    published(tiny_models, root / "yours")  # and now nobody knows which
    with pytest.raises(finding.CheckpointError, match="is not there" if name == "memo" else "is not among"):
        obtain.obtain("nets", name, roots)


def test_all_that_is_missing_is_said_at_once_with_its_size(tiny_models, root, roots):
    published(tiny_models, root / "mine")  # of which all but the VAE and wav2vec2 are
    names = {role: model.name for role, model in obtain.CATALOGUE.items()}
    with pytest.raises(finding.CheckpointError) as error:
        obtain.check_there(names, roots)
    said = str(error.value)
    for words in ("The VAE (334.6 MB)", "The audio encoder (377.6 MB)", "sd-vae-ft-mse.safetensors", "wav2vec2-base-960h/model.safetensors"):
        assert words in said
    assert "nets" not in said and "Switch on download (" in said


def test_without_download_exactly_what_is_missing_is_listed(tiny_models, root, roots):
    folder = published(tiny_models, root / "memo")
    (folder / "audio_proj" / WEIGHTS).unlink()
    (folder / "image_proj/config.json").write_bytes(b"")
    os.truncate(folder / "diffusion_net" / WEIGHTS, 5000)
    with pytest.raises(finding.CheckpointError) as error:
        obtain.obtain("nets", "memo", roots)
    files = ", ".join(str(folder / file) for file in (f"diffusion_net/{WEIGHTS}", "image_proj/config.json", f"audio_proj/{WEIGHTS}"))
    assert str(error.value) == (
        "The set of MEMO's four nets is not there: switch on download (10.3 GB), or fetch by hand, "
        f"from https://huggingface.co/memoavatar/memo: {files}"
    )


def test_where_there_is_no_switch_the_script_is_named(tmp_path):
    with pytest.raises(finding.CheckpointError, match=r"Vocal separation is not there: run scripts/download\.py --models .* \([\d.]+ MB\), or"):
        obtain.find_model("vocal_separator", tmp_path)


def test_what_is_missing_goes_where_the_rest_lies(tiny_models, tmp_path, root):
    second = tmp_path / "second"
    published(tiny_models, second / "memo")
    (second / "memo/audio_proj" / WEIGHTS).unlink()
    place, files = obtain.missing(CATALOGUE["nets"], lambda kind: [root, second])
    assert place == second and [file.path for file in files] == [f"audio_proj/{WEIGHTS}"]


def test_back_to_a_folder(tiny_models, root):
    to_single_files(tiny_models / "memo/tiny", root / "one.safetensors")
    to_folder(root / "one.safetensors", root / "memo")
    assert found("nets", root).keys() == found("emotion_classifier", root).keys() == {"memo", "one.safetensors"}
