"""What trains, and the optimizer's step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..errors import InputError, MissingPackageError
from ..sampler.sampling import MemoNets
from ..weights.checkpoints import NETS

Trainable = Mapping[str, Sequence[str] | None]
"""From a net (of NETS) to parts of module names, or None for the whole net. Nets that are not named stay frozen."""

MOTION_AND_AUDIO: Mapping[str, tuple[str, ...] | None] = {"diffusion_net": ("motion_modules", "audio_modules")}
"""What the published training trains."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Of AdamW, as published; weight decay is for all parameters, biases and norms too. betas, eps: see torch.optim.AdamW.

    lr_schedule, warmup_steps: see learning_rate. max_grad_norm: see optimizer_step. kind: adamw_8bit holds the moments in 8 bits, by
    bitsandbytes.
    """

    learning_rate: float = 1e-5
    lr_schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    kind: Literal["adamw", "adamw_8bit"] = "adamw"


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """The learning rate of step ``step`` of 0 to ``steps`` - 1: rising from step 0 over the warm-up, then constant, or
    falling to 0 along half a cosine."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class StepReport:
    """grad_norm: of all gradients before clipping. stepped: False if it was not finite, and no weight has changed."""

    grad_norm: float
    stepped: bool


def set_trainable(nets: MemoNets, trainable: Trainable = MOTION_AND_AUDIO) -> dict[str, nn.Parameter]:
    """Have the modules whose dotted name contains one of the parts train and all else frozen; `net.parameter` to those.

    Raises InputError for a net that is none of NETS and for a part that no module of its net has in its name.
    """
    for name in NETS:
        getattr(nets, name).requires_grad_(False)
    for name, parts in trainable.items():
        if name not in NETS:
            raise InputError(f"trainable: expected nets out of {', '.join(NETS)}, got {name!r}.")
        net: nn.Module = getattr(nets, name)
        if parts is None:
            net.requires_grad_(True)
            continue
        for part in parts:
            modules = [module for path, module in net.named_modules() if part in path]
            if not modules:
                raise InputError(f"trainable: no module of {name} has {part!r} in its name.")
            for module in modules:
                module.requires_grad_(True)
    return {f"{name}.{key}": parameter for name in NETS for key, parameter in getattr(nets, name).named_parameters() if parameter.requires_grad}


def make_optimizer(
    parameters: Sequence[nn.Parameter], settings: OptimizerSettings = OptimizerSettings(), float32_masters: bool = True
) -> torch.optim.Optimizer:
    """AdamW over ``parameters``, for optimizer_step.

    float32_masters: where a parameter is not float32, the optimizer holds a float32 copy of it, which moves by less than
    the parameter can: in bfloat16 a weight above 0.004 does not move at all at the published learning rate, nor do most
    weights in the published training. The copies are in ``optimizer.param_groups``, not in its state_dict.

    Raises MissingPackageError for adamw_8bit without bitsandbytes.
    """
    held = [
        nn.Parameter(parameter.detach().float()) if float32_masters and parameter.dtype != torch.float32 else parameter for parameter in parameters
    ]
    options: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "weight_decay": settings.weight_decay, "eps": settings.eps}
    if settings.kind == "adamw_8bit":
        return _import_bitsandbytes().optim.AdamW8bit(held, **options)
    fused = float32_masters and all(parameter.device.type in ("cpu", "cuda") for parameter in held)  # others may have no such kernel
    return torch.optim.AdamW(held, fused=fused, **options)


def _import_bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingPackageError(f"optimizer.kind: adamw_8bit needs bitsandbytes ({error}): pip install bitsandbytes, or use adamw.") from error
    return bitsandbytes


def held_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The tensors that an optimizer updates: the parameters that make_optimizer was given, in order, or their float32 masters."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], max_grad_norm: float = 1.0, scale: float = 1.0
) -> StepReport:
    """Clip the gradients of ``parameters``, those that ``optimizer`` was made for, update the parameters and drop the gradients.

    scale: the gradients are multiplied by it first. If the norm is not finite, nothing is updated: one NaN would reach all weights. Zero
    gradients do change weights, through momentum and weight decay, as in the published training.
    """
    held = held_parameters(optimizer)
    masters = [(master, parameter) for master, parameter in zip(held, parameters, strict=True) if master is not parameter]
    for master, parameter in masters:
        master.grad = None if parameter.grad is None else parameter.grad.float()
        parameter.grad = None
    if scale != 1:
        gradients = [parameter.grad for parameter in held if parameter.grad is not None]
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]  # documented, but missing in torch.__all__
    norm = nn.utils.clip_grad_norm_(held, max_grad_norm)
    stepped = bool(norm.isfinite())
    if stepped:
        optimizer.step()
        with torch.no_grad():
            for master, parameter in masters:
                parameter.copy_(master)
    optimizer.zero_grad(set_to_none=True)
    return StepReport(float(norm), stepped)
