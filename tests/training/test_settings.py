"""The YAML of a training: every key is known and read, everything else is refused by name."""

import json
import time
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from memo_modules.errors import InputError
from memo_modules.training.parameters import OptimizerSettings, learning_rate
from memo_modules.training.settings import TrainingSettings, changes, plain, read_settings

FINETUNE = Path(__file__).resolve().parents[2] / "scripts" / "configs" / "finetune.yaml"
BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(12))
LEAST = "checkpoint: a\nvae: b\noutput_dir: c\ndata: {metadata: [d]}\n"


def read(tmp_path: Path, text: str = LEAST, *overrides: str) -> TrainingSettings:
    path = tmp_path / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return read_settings(path, overrides)


def test_the_published_settings_are_the_defaults_and_no_key_is_kept_from_the_reader(tmp_path):
    import yaml

    published = read_settings(FINETUNE)
    least = read(tmp_path)
    assert changes(plain(least), plain(published)) == [
        "checkpoint: a -> models/memo/memo",
        "vae: b -> models/vae/sd-vae-ft-mse.safetensors",
        "output_dir: c -> runs/finetune",
        "data.metadata: ['d'] -> ['prepared/metadata.jsonl']",
        "loggers: None -> ['tensorboard']",
    ]

    def unnamed(settings, values: dict) -> list[str]:
        missing = [each.name for each in fields(settings) if each.name not in values]
        parts = [each.name for each in fields(settings) if is_dataclass(getattr(settings, each.name)) and each.name in values]
        return missing + [f"{part}.{name}" for part in parts for name in unnamed(getattr(settings, part), values[part])]

    assert unnamed(published, yaml.safe_load(FINETUNE.read_text(encoding="utf-8"))) == ["weighting.mode_scale"]


def test_the_settings_of_the_reference_implementation_mean_the_same(tmp_path):
    """Written to the description of its finetune.yaml."""
    reference = (
        "tracker_project_name: memo\noutput_dir: out\nresume_from_checkpoint: null\nmodel_name_or_path: memoavatar/memo\nvae: stabilityai/vae\n"
        "gradient_checkpointing: true\ntrain_batch_size: 2\nmax_train_steps: 300\nnum_train_epochs: -1\nallow_tf32: true\nrobust_training: true\n"
        "learning_rate: 2e-5\nscale_lr: false\nlr_scheduler: constant\nmixed_precision: bf16\nuse_8bit_adam: false\nuse_ema: false\n"
        "adam_beta1: 0.8\nadam_beta2: 0.99\nadam_epsilon: 1e-08\ndataloader_num_workers: 3\nprefetch_factor: 4\ncheckpointing_steps: 50\n"
        "data:\n  width: 256\n  height: 256\n  num_past_frames: 8\n  dynamic_past_frames: false\n  n_sample_frames: 12\n  metadata_paths: [a.jsonl]\n"
        "weighting_scheme: mode\nnoise_scheduler_kwargs:\n  num_train_timesteps: 1000\ntrain_reference_net: false\ntrain_diffusion_net: true\n"
        "trainable_modules: [motion_modules]\nuncond_img_ratio: 0.1\nstart_ratio: 0.2\n"
    )
    assert changes(plain(read(tmp_path)), plain(read(tmp_path, reference, "checkpoint=nets"))) == [
        "checkpoint: a -> nets",
        "vae: b -> stabilityai/vae",
        "output_dir: c -> out",
        "data.metadata: ['d'] -> ['a.jsonl']",
        "data.width: 512 -> 256",
        "data.height: 512 -> 256",
        "data.frames: 16 -> 12",
        "data.past_frames: 16 -> 8",
        "data.workers: 4 -> 3",
        "steps: 20000 -> 300",
        "batch_size: 1 -> 2",
        "trainable.diffusion_net: ['motion_modules', 'audio_modules'] -> ['motion_modules']",
        "weighting.scheme: logit_normal -> mode",
        "rates.start_frame: 0.05 -> 0.2",
        "rates.uncond_img: 0.05 -> 0.1",
        "optimizer.learning_rate: 1e-05 -> 2e-05",
        "optimizer.betas: [0.9, 0.999] -> [0.8, 0.99]",
        "save_every: 5000 -> 50",
    ]
    assert read(tmp_path, reference.replace("robust_training: true", "robust_training: false")).robust_threshold is None
    assert read(tmp_path, reference.replace("use_8bit_adam: false", "use_8bit_adam: true")).optimizer.kind == "adamw_8bit"
    with pytest.raises(InputError, match=r"other: no setting of the reference .*; use_ema: expected False, got True; use ema_decay\."):
        read(tmp_path, reference.replace("use_ema: false", "use_ema: true\nother: 1"))


def test_the_configurations_of_accelerate_can_be_read():
    from accelerate.commands.config.config_args import load_config_from_file

    processes = {path.stem: load_config_from_file(str(path)).num_processes for path in FINETUNE.parent.glob("accelerate_*.yaml")}
    assert processes == {"accelerate_cards": 8, "accelerate_machines": 16, "accelerate_zero2": 8}
    zero = load_config_from_file(str(FINETUNE.with_name("accelerate_zero2.yaml"))).deepspeed_config["deepspeed_config_file"]
    assert json.loads((FINETUNE.parents[2] / zero).read_text(encoding="utf-8"))["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{LEAST}steps: {'[' * 100_000}", "nested too deeply"),
        (f"{LEAST}{BOMB}steps: *a11", "more than 100000 values"),
        (f"{LEAST}steps:\n  a: &a [{'x' * 20_000}]\n  b: &b [{', '.join(['*a'] * 90)}]\n  c: [{', '.join(['*b'] * 90)}]", "more than 100000 values"),
        (f"{LEAST}steps: {'x' * 100_000}", "steps: expected a whole number, got 'xxxx"),
        (f"{LEAST}steps: 0x{'f' * 100_000}\nbatch_size: x", "batch_size: expected a whole number, got 'x'"),
        (f"{LEAST}steps: -0x{'f' * 100_000}", "steps: expected at least 1, got"),
        (f"{LEAST}? 0x{'f' * 100_000}\n: 1", "no such setting"),
        (f"{LEAST}ema_decay: 1{'0' * 400}", "ema_decay: expected a number, got 1000"),
        (LEAST.replace("output_dir: c", "output_dir: ~nobody-of-that-name/x"), "output_dir: '~nobody-of-that-name/x' names no folder"),
        (LEAST.replace("output_dir: c", 'output_dir: "a\\0b"'), r"output_dir: expected a path, got 'a\x00b'"),
        (f"{LEAST}steps: !!bool x", "not readable as YAML"),
        ("a: \0", "not readable as YAML"),
        ("x" * 300_000, "longer than 256 kB"),
        ("[a]", "expected keys and values, got list"),
        ("", "expected keys and values, got NoneType"),
    ],
    ids=range(15),
)
def test_what_a_file_may_not_say_is_a_sentence(tmp_path, text, words):
    """A bomb of aliases in `steps` was a message of 580 MB, deep lists a traceback."""
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    assert words in str(error.value) and len(str(error.value)) < 1500
    assert time.monotonic() - start < 5


def test_files_that_are_none(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfd")
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / ("x" * 300), tmp_path / "bytes.yaml", Path("/dev/zero")):
        with pytest.raises(InputError) as error:
            read_settings(path)
        assert f"{path} cannot be read" in str(error.value)


def test_values_have_the_types_of_their_settings(tmp_path):
    settings = read(
        tmp_path,
        LEAST + "optimizer: {learning_rate: 1e-5, betas: [0.9, 1]}\ntrainable: {diffusion_net: null, image_proj: [proj]}\nrobust_threshold: null",
        "rates.emotion_drop=0",
        "data.width=128",
        "ema_decay=0.5",
        "output_dir=~/x",
        "weighting.scheme=mode",
        "loggers=[wandb]",
    )
    assert settings.optimizer.learning_rate == 1e-5 and settings.optimizer.betas == (0.9, 1.0)
    assert settings.trainable == {"diffusion_net": None, "image_proj": ("proj",)} and settings.robust_threshold is None
    assert settings.rates.emotion_drop == 0.0 and isinstance(settings.rates.emotion_drop, float) and settings.rates.uncond_img == 0.05
    assert (settings.data.width, settings.ema_decay, settings.weighting.scheme, settings.loggers) == (128, 0.5, "mode", ("wandb",))
    assert settings.output_dir == Path.home() / "x" and settings.data.metadata == (Path("d"),)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["use_ema=true"], "use_ema: no such setting. Known here: checkpoint, vae,"),
        (["data.resolution=512"], "data.resolution: no such setting. Known here: metadata, width,"),
        (
            ["rates.start=1"],
            r"rates.start: no such setting. Known here: start_frame, start_reference, past_noise, uncond_img, uncond_audio, "
            r"emotion_drop, emotion_drop_per, unconditional, face_drop\.",
        ),
        (["steps=many"], "steps: expected a whole number, got 'many'"),
        (["steps=true"], "steps: expected a whole number, got True"),
        (["steps=0"], "steps: expected at least 1, got 0"),
        (["optimizer.max_grad_norm=0"], "optimizer.max_grad_norm: expected a number above 0, got 0"),
        (["optimizer.max_grad_norm=.nan"], "optimizer.max_grad_norm: expected a number above 0, got nan"),
        (["data.metadata=[]"], "data.metadata: expected at least 1"),
        (["data.metadata=x"], "data.metadata: expected a list, got 'x'"),
        (["dtype=fp16"], "dtype: expected one of bf16, fp32, got 'fp16'"),
        (["optimizer.betas=[0.9]"], "optimizer.betas: expected 2 values"),
        (["optimizer.learning_rate=fast"], "optimizer.learning_rate: expected a number, got 'fast'"),
        (["optimizer=1"], "optimizer: expected keys and values, got 1"),
        (["rates.uncond_img=2"], r"rates.uncond_img: expected a number in \[0, 1\], got 2"),
        (["weighting.scheme=none_such"], "weighting_scheme"),
        (["data.past_frames=1"], "past frames as the audio margin"),
        (["ema_decay=1"], "ema_decay"),
        (["steps"], "expected key=value"),
        (["steps.more=1", "steps=1"], "no keys"),
    ],
)
def test_what_is_not_a_setting_is_refused_by_its_name(tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, LEAST + "steps: 5\n", *overrides)


def test_files_that_hold_no_settings_are_refused(tmp_path):
    for text, message in (("steps: 1", "checkpoint: expected a value, there is none"), ("- 1", "expected keys and values"), ("a: [", "YAML")):
        with pytest.raises(InputError, match=message):
            read(tmp_path, text)
    with pytest.raises(InputError, match="missing.yaml"):
        read_settings(tmp_path / "missing.yaml")


def test_the_learning_rate_rises_stays_and_falls():
    constant = OptimizerSettings(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(constant, step, 100) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    cosine = OptimizerSettings(learning_rate=1.0, lr_schedule="cosine", warmup_steps=2)
    assert [learning_rate(cosine, step, 10) for step in (0, 1, 2, 6)] == pytest.approx([0.5, 1, 1, 0.5])
    assert 0 < learning_rate(cosine, 9, 10) < 0.05
