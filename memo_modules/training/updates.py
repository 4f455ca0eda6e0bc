"""How weights are updated: gradients over all processes, one step of AdamW, and what a checkpoint holds of it."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .parameters import OptimizerSettings, StepReport, held_parameters, make_optimizer, optimizer_step

MOMENTS = ("exp_avg", "exp_avg_sq")

TABLES = ("qmap1", "qmap2")

EIGHT_BIT = ("state1", "state2", *TABLES, "absmax1", "absmax2")
"""The same as bitsandbytes holds them: small parameters have the first two alone, in float32."""


def make_updates(
    objective: nn.Module, trained: Mapping[str, nn.Parameter], settings: OptimizerSettings, accelerator, batch_size: int
) -> "Updates | ZeroUpdates":
    """What the configuration of ``accelerator`` asks for: every process holding all of the state, or a part of it."""
    if accelerator.state.deepspeed_plugin is None:
        return Updates(objective, trained, settings, accelerator)
    return ZeroUpdates(objective, trained, settings, accelerator, batch_size)


class Updates:
    """The whole state of the weights in every process; all of them make the same step. See training.parameters.

    module: the objective, to be called. trained: `net.parameter` to parameter. Parameters of the nets are up to date
    between steps.
    """

    scales_gradients = True
    """Whether ``step`` can scale the gradients of the backward passes."""

    whole_in_each = True
    """Whether each process has all of the state."""

    def __init__(self, objective: nn.Module, trained: Mapping[str, nn.Parameter], settings: OptimizerSettings, accelerator):
        self.trained, self.settings, self.accelerator = trained, settings, accelerator
        self.module = accelerator.prepare(objective)
        self.optimizer = make_optimizer(list(trained.values()), settings)

    def pass_of(self, last: bool) -> AbstractContextManager:
        """For a forward pass and its backward pass, ``last`` of a step."""
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of ``loss``; after the last one they are means over all processes."""
        self.accelerator.backward(loss)

    def step(self, rate: float, scale: float) -> StepReport:
        """Move the weights at learning rate ``rate`` by the gradients times ``scale`` and drop these, see optimizer_step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return optimizer_step(self.optimizer, list(self.trained.values()), self.settings.max_grad_norm, scale)

    def weights(self) -> dict[str, Tensor]:
        """The tensors that are updated, in the highest precision there is."""
        return dict(zip(self.trained, (held.detach() for held in held_parameters(self.optimizer)), strict=True))

    def state(self, keep: bool) -> dict[str, Tensor]:
        """`weights.NAME` in float32 and AdamW's `step.NAME`, `exp_avg.NAME`, `exp_avg_sq.NAME`, if any, or what else the optimizer
        remembers of a parameter. Must be called in every process; those that do not ``keep`` it may get nothing."""
        tensors = {f"weights.{name}": weight for name, weight in self.weights().items()}
        for name, held in zip(self.trained, held_parameters(self.optimizer), strict=True):
            for part, value in self.optimizer.state.get(held, {}).items():
                # a table that all parameters share would not be saved
                tensors[f"{part}.{name}"] = value.clone() if part in TABLES else torch.as_tensor(value)
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` gave. Raises InputError where that is of another kind of optimizer."""
        parts = MOMENTS if self.settings.kind == "adamw" else EIGHT_BIT
        others = EIGHT_BIT if self.settings.kind == "adamw" else MOMENTS
        for name, held in zip(self.trained, held_parameters(self.optimizer), strict=True):
            if f"{others[0]}.{name}" in tensors:
                raise InputError(f"optimizer.kind: the checkpoint is not of {self.settings.kind}. Resume with the kind that it was trained with.")
            held.copy_(tensors[f"weights.{name}"])
            self.trained[name].copy_(held)
            state: dict[str, Any] = {
                part: tensors[f"{part}.{name}"].to(held.device, copy=True) for part in ("step", *parts) if f"{part}.{name}" in tensors
            }
            if state and self.settings.kind == "adamw_8bit":
                state["step"] = int(state["step"])
            self.optimizer.state[held] = state


class ZeroUpdates:
    """Updates whose state DeepSpeed's ZeRO (stage 1 or 2) keeps in parts, one in each process, in addition to bfloat16 weights.

    A checkpoint holds the parts joined together, so that any number of processes, with ZeRO or without, can resume from it.
    """

    scales_gradients = False
    whole_in_each = False

    def __init__(self, objective: nn.Module, trained: Mapping[str, nn.Parameter], settings: OptimizerSettings, accelerator, batch_size: int):
        plugin = accelerator.state.deepspeed_plugin
        if plugin.zero_stage not in (1, 2):
            raise InputError(f"DeepSpeed: expected ZeRO of stage 1 or 2, got stage {plugin.zero_stage}.")
        projections = sorted({name.split(".")[0] for name in trained} & {"image_proj", "audio_proj"})
        if projections and accelerator.mixed_precision != "no":
            raise InputError(
                f"trainable: DeepSpeed would turn {projections[0]}, which is float32, into bf16. Train it without DeepSpeed or with dtype fp32."
            )
        if settings.kind != "adamw":
            raise InputError(f"optimizer.kind: DeepSpeed shares AdamW's state among the processes: expected adamw, got {settings.kind}.")
        plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": batch_size, "gradient_clipping": settings.max_grad_norm}
        optimizer = make_optimizer(list(trained.values()), settings, float32_masters=False)
        self.trained = trained
        self.module, _ = accelerator.prepare(objective, optimizer)
        self.zero = self.module.optimizer
        if not hasattr(self.zero, "check_grad_overflow"):
            raise InputError('DeepSpeed: expected 0.17.1 or newer, which can keep a NaN from all weights. pip install -U "deepspeed>=0.17.1"')
        self.zero.check_grad_overflow = True  # not every version does so for bfloat16

    def pass_of(self, last: bool) -> AbstractContextManager:
        return nullcontext()

    def backward(self, loss: Tensor, last: bool) -> None:
        self.module.set_gradient_accumulation_boundary(last)
        self.module.backward(loss)

    def step(self, rate: float, scale: float) -> StepReport:
        for group in self.zero.param_groups:
            group["lr"] = rate
        self.module.step()
        norm = float(self.module.get_global_grad_norm())
        return StepReport(norm, math.isfinite(norm) and not self.zero.overflow)

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.trained.items()}

    def state(self, keep: bool) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        steps = [state["step"] for state in self.zero.optimizer.state.values()]
        tensors = {}
        for name, parameter in self.trained.items():
            parts = {"weights": safe_get_full_fp32_param(parameter)}
            if steps:
                parts |= {part: safe_get_full_optimizer_state(parameter, part) for part in MOMENTS}
                parts["step"] = torch.tensor(float(steps[0]))
            if keep:
                tensors |= {f"{part}.{name}": tensor.cpu() for part, tensor in parts.items()}
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        moments = all(f"{part}.{name}" in tensors for part in MOMENTS for name in self.trained)
        if moments:  # the optimizer creates them in its first step, and ZeRO finds them only after it
            step = tensors[f"step.{next(iter(self.trained))}"]
            for flat in self.zero.single_partition_of_fp32_groups:
                self.zero.optimizer.state[flat] = {"step": step.clone(), **{part: torch.zeros_like(flat) for part in MOMENTS}}
            self.zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in self.trained.items():
            weight = tensors[f"weights.{name}"].to(parameter.device)
            parameter.copy_(weight)
            safe_set_full_fp32_param(parameter, weight)
            for part in MOMENTS if moments else ():
                safe_set_full_optimizer_state(parameter, tensors[f"{part}.{name}"].to(parameter.device), part)
