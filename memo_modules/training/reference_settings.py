"""The reference implementation's finetune.yaml, in our words."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..words import quoted

_SAME = {
    "model_name_or_path": "checkpoint",
    "vae": "vae",
    "output_dir": "output_dir",
    "gradient_checkpointing": "checkpointing",
    "gradient_accumulation_steps": "gradient_accumulation",
    "train_batch_size": "batch_size",
    "max_train_steps": "steps",
    "checkpoints_total_limit": "keep",
    "checkpointing_steps": "save_every",
    "seed": "seed",
    "learning_rate": "optimizer.learning_rate",
    "max_grad_norm": "optimizer.max_grad_norm",
    "lr_scheduler": "optimizer.lr_schedule",
    "lr_warmup_steps": "optimizer.warmup_steps",
    "adam_weight_decay": "optimizer.weight_decay",
    "adam_epsilon": "optimizer.eps",
    "dataloader_num_workers": "data.workers",
    "data.width": "data.width",
    "data.height": "data.height",
    "data.num_past_frames": "data.past_frames",
    "data.n_sample_frames": "data.frames",
    "data.audio_margin": "data.audio_margin",
    "data.metadata_paths": "data.metadata",
    "weighting_scheme": "weighting.scheme",
    "logit_mean": "weighting.logit_mean",
    "logit_std": "weighting.logit_std",
    "mode_scale": "weighting.mode_scale",
    "uncond_img_ratio": "rates.uncond_img",
    "uncond_audio_ratio": "rates.uncond_audio",
    "start_ratio": "rates.start_frame",
}
"""Its keys to those that mean the same here."""

_ONLY = {
    "mixed_precision": (("bf16", "no"), "dtype: bf16 or fp32"),
    "resume_from_checkpoint": ((None,), "the argument --resume"),
    "num_train_epochs": ((-1, None), "steps"),
    "scale_lr": ((False,), "optimizer.learning_rate, as it is to be"),
    "use_8bit_adam": ((False, True), "optimizer.kind: adamw or adamw_8bit"),
    "use_ema": ((False,), "ema_decay"),
    "data.dynamic_past_frames": ((False,), "data.past_frames"),
    "noise_scheduler_kwargs.num_train_timesteps": ((1000,), "nothing: the nets know 1000"),
}
"""Those that are understood at some values, and what to use instead of others."""

_NOT_NEEDED = ("tracker_project_name", "enable_xformers_memory_efficient_attention", "allow_tf32", "prefetch_factor")
"""What nothing here depends on."""

_NETS = ("reference_net", "diffusion_net", "image_proj", "audio_proj")
_MERGED = ("adam_beta1", "adam_beta2", "robust_training", "trainable_modules", *(f"train_{net}" for net in _NETS))


def is_reference(values: Mapping[str, Any]) -> bool:
    """Whether these are settings of the reference implementation."""
    return "model_name_or_path" in values


def in_our_words(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings for from_mapping. Raises InputError that names each key which cannot be followed, and what replaces it."""
    flat = dict(_flat(values))
    refused = [f"{key}: no setting of the reference implementation" for key in flat if key not in {*_SAME, *_ONLY, *_NOT_NEEDED, *_MERGED}]
    refused += [
        f"{key}: expected {' or '.join(map(repr, allowed))}, got {quoted(flat[key])}; use {instead}"
        for key, (allowed, instead) in _ONLY.items()
        if key in flat and flat[key] not in allowed
    ]
    if refused:
        raise InputError("; ".join(refused) + ".")
    found: dict[str, Any] = {}
    for key, ours in _SAME.items():
        if key in flat:
            section, _, name = ours.rpartition(".")
            (found.setdefault(section, {}) if section else found)[name] = flat[key]
    if "mixed_precision" in flat:
        found["dtype"] = {"bf16": "bf16", "no": "fp32"}[flat["mixed_precision"]]
    if "adam_beta1" in flat or "adam_beta2" in flat:
        found.setdefault("optimizer", {})["betas"] = [flat.get("adam_beta1", 0.9), flat.get("adam_beta2", 0.999)]
    if flat.get("use_8bit_adam"):
        found.setdefault("optimizer", {})["kind"] = "adamw_8bit"
    if not flat.get("robust_training", False):
        found["robust_threshold"] = None
    modules = flat.get("trainable_modules")
    found["trainable"] = {net: modules if net.endswith("_net") else None for net in _NETS if flat.get(f"train_{net}", False)}
    return found


def _flat(values: Mapping[str, Any], section: str = ""):
    for key, value in values.items():
        if section == "" and key in ("data", "noise_scheduler_kwargs") and isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield f"{section}{key}", value
