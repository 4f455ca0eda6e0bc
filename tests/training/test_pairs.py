"""Distillation from portraits and voices alone: each clip continues the one that the teacher made before it."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from memo_modules.errors import InputError
from memo_modules.training.assembly import load_vae, make_trainer
from memo_modules.training.settings import read_settings
from memo_modules.weights.checkpoints import net_source, read_weights
from tests.helpers.graphs import PORTRAIT, write_wav

SIZE, FRAMES = 64, 3


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_models, one_thread):
    folder = tmp_path_factory.mktemp("pairs")
    Image.fromarray(np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)).save(folder / "grey.png")
    write_wav(folder / "voice.wav", 16000, 16000)
    write_wav(folder / "short.wav", 1600, 16000)
    lines = [
        {"image": str(PORTRAIT), "audio": "voice.wav", "emotion": "happy", "output": "a.mp4"},
        {"image": str(PORTRAIT), "audio": "short.wav", "emotion": "sad", "output": "b.mp4"},
        {"image": "grey.png", "audio": "voice.wav", "emotion": "angry", "output": "c.mp4"},
    ]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(line | {"separate": False}) for line in lines), encoding="utf-8")
    values = {
        "checkpoint": str(tiny_models / "memo" / "tiny"),
        "vae": str(tiny_models / "vae" / "sd-vae-ft-mse"),
        "output_dir": str(folder / "out"),
        "dtype": "fp32",
        "steps": 1,
        "save_every": 1,
        "loggers": [],
        "robust_threshold": None,
        "trainable": {"diffusion_net": ["motion_modules"]},
        "data": {"width": SIZE, "height": SIZE, "frames": FRAMES, "past_frames": 2, "workers": 0},
        "distil": {
            "steps": 1,
            "teacher_steps": 1,
            "guidance_scale": 1.0,
            "trajectories": 4,
            "clips": 2,
            "pairs": str(folder / "pairs.jsonl"),
            "models": str(tiny_models),
        },
    }
    path = folder / "distil.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def trainer(config, *overrides):
    settings = read_settings(config, overrides)
    return make_trainer(settings, Accelerator(cpu=True), load_vae(settings, torch.device("cpu")))


def test_a_student_learns_from_portraits_and_voices(config, tiny_vae, caplog):
    made = trainer(config)
    first, second, third, _ = (read_weights(video.video) for video in made.stream.dataset.videos)
    portrait, *past = first["reference_latents"]
    assert all(torch.equal(each, portrait) for each in past) and len(past) == 2, "a video begins with its portrait"
    shown = tiny_vae.encode(tiny_vae.decode(first["trajectory"][-1][-2:].float()) * 2 - 1)
    torch.testing.assert_close(second["reference_latents"][1:].float(), shown, atol=2e-3, rtol=1e-2)
    assert torch.equal(second["reference_latents"][0], portrait)
    assert torch.equal(second["audio_emb"][0, :-1], first["audio_emb"][-1, 1:]), "windows that move on by a frame"
    assert not torch.equal(first["trajectory"][0], second["trajectory"][0]), "each clip has noise of its own"
    assert first["audio_emb"].shape[:2] == (FRAMES, 5) and third["audio_emotion"].tolist() != first["audio_emotion"].tolist()
    assert "short.wav: audio: expected at least 6 frames for distil.clips 2, got 3. It is skipped." in caplog.text
    made.run(lambda log: None, lambda folder: None, lambda: False)
    recipe = net_source(made.settings.output_dir / "checkpoint-1", "diffusion_net").read_config()["recipe"]
    assert recipe["steps"] == 1 and recipe["past_every"] == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distil.models=null"], "distil.models: expected the `models` folder of a ComfyUI with distil.pairs"),
        (["data.metadata=[x.jsonl]"], "data: expected neither metadata nor cache_dir with distil.pairs"),
        (["data.past_frames=4"], "no more past_frames than frames, got 0 files, None, and 4 for 3"),
        (["distil.clips=0"], "distil.clips: expected at least 1, got 0"),
        (["distil.pairs=null"], "data.metadata: expected at least 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config, overrides, message):
    with pytest.raises(InputError, match=message):
        read_settings(config, overrides)


def test_pairs_that_cannot_be_used_are_named(config, tmp_path):
    broken = tmp_path / "pairs.jsonl"
    broken.write_text('{"image": "a.png"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="distil.pairs: .*line 1: audio: expected a file"):
        trainer(config, f"distil.pairs={broken}", f"output_dir={tmp_path / 'out'}")
    voice = config.parent / "short.wav"
    broken.write_text(json.dumps({"image": str(PORTRAIT), "audio": str(voice), "separate": False}), encoding="utf-8")
    with pytest.raises(InputError, match="distil.pairs: 1 pairs in a row cannot be used. The last: .*short.wav: audio: expected at least 6 frames"):
        trainer(config, f"distil.pairs={broken}", f"output_dir={tmp_path / 'out'}")
