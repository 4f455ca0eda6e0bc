"""What a clip's latents follow: the velocity of the diffusion net, with guidance, and the passes of the net that may be left out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..models.attention import FewTokens
from ..models.diffusion_net import DeepFeatures, DiffusionNet, LayerBiases, Modulations, SpatialContexts
from ..types import AttentionMemory, MotionMemory, SamplerSettings


@dataclass(frozen=True)
class ClipConditioning:
    """Everything that steers one pass of the diffusion net through the steps of one clip. A pass runs both guidance branches
    together, or one of them; audio_tokens ((b f) t d), unconditional branch first."""

    audio_tokens: Tensor
    spatial: SpatialContexts
    emotion: Modulations
    memory: MotionMemory
    biases: Sequence[LayerBiases] | None = None

    def conditional(self, frames: int) -> "ClipConditioning":
        """The conditional branch of both, as views. frames: of a clip."""
        return ClipConditioning(
            self.audio_tokens[frames:],
            tuple(context and replace(context, face=FewTokens(context.face.scores[1:], context.face.values[1:])) for context in self.spatial),
            tuple(layer and tuple((shift[1:], scale[1:]) for shift, scale in layer) for layer in self.emotion),
            [layer and tuple(AttentionMemory(block.kv.chunk(2)[1], block.z.chunk(2)[1]) for block in layer) for layer in self.memory],
            self.biases,
        )


class GuidedVelocity:
    """The velocity field of one clip's latents (f c h w) float32, a solvers.Velocity.

    passes: with both guidance branches in all passes together, it combines them. settings: which calls run what, see
    SamplerSettings. Nothing in it waits for the device.
    """

    def __init__(self, net: DiffusionNet, passes: Sequence[ClipConditioning], settings: SamplerSettings, frames: int):
        self.net, self.settings, self.frames = net, settings, frames
        self.passes = [_Pass(net, conditioning, settings.whole_every, frames) for conditioning in passes]
        self.calls = 0
        self.unconditional: Tensor | None = None
        self.conditional: _Pass | None = None

    def __call__(self, latents: Tensor, sigma: Tensor) -> Tensor:
        fresh, self.calls = self.calls % self.settings.unconditional_every == 0, self.calls + 1
        if not self.settings.guided:
            [conditional] = self.passes[0](latents, sigma)
            return conditional
        unconditional = None if fresh else self.unconditional
        if unconditional is None:
            unconditional, conditional = (branch for each in self.passes for branch in each(latents, sigma))
            self.unconditional = unconditional
        else:
            [conditional] = self._conditional_pass()(latents, sigma)
        return unconditional + self.settings.guidance_scale * (conditional - unconditional)

    def _conditional_pass(self) -> "_Pass":
        """The one that runs the conditional branch alone."""
        if self.conditional is None:
            both = self.passes[-1]
            if len(self.passes) == 1:
                both = _Pass(self.net, both.conditioning.conditional(self.frames), self.settings.whole_every, self.frames)
            self.conditional = both
        return self.conditional


class _Pass:
    """Calls of the diffusion net under one conditioning."""

    def __init__(self, net: DiffusionNet, conditioning: ClipConditioning, whole_every: int, frames: int):
        self.net, self.conditioning, self.whole_every, self.frames = net, conditioning, whole_every, frames
        self.calls = 0
        self.deep: DeepFeatures | None = None

    def __call__(self, latents: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        """The velocity (f c h w) float32 of each branch."""
        conditioning, tokens = self.conditioning, self.conditioning.audio_tokens
        branches = tokens.shape[0] // self.frames
        if self.whole_every > 1 and self.calls % self.whole_every == 0:
            self.deep = DeepFeatures()
        self.calls += 1
        out = self.net(
            latents.to(tokens.dtype),
            sigma * 1000,
            tokens,
            conditioning.spatial,
            conditioning.emotion,
            conditioning.memory,
            self.frames,
            deep=self.deep,
            biases=conditioning.biases,
        )
        return out.float().chunk(branches)
