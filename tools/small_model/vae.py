"""The small model's VAE, trained from scratch on pictures of the small world.

    python -m tools.small_model.vae MODELS_DIR WORLD_DIR [--steps 6000] [--seed 0]
    python -m tools.small_model.vae MODELS_DIR WORLD_DIR --decoder [--steps 3000]

WORLD_DIR is what tools/make_small_world.py writes. Writes MODELS_DIR/memo/small/vae in the layout of diffusers and its
training log next to it. 1.0 million parameters. With --decoder the encoder stays as it is, and with it all latents and the nets
trained on them; the decoder is trained further, to draw edges as sharp as they are.
"""

import argparse
import json
import time
from pathlib import Path

import av
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

SIZE, CROP = 128, 64
KL_WEIGHT = 1e-4
"""Against the mean absolute error; both are means over their elements."""

MOUTH_WEIGHT = 4.0
"""How much more a pixel of a mouth counts: mouths are 1 % of a picture and what a viewer looks at."""


SHARPNESS_WEIGHT = 1.0
"""Of the sharpness that a decoder learns with afterwards: an edge a little off its place is worse for the mean absolute error than
none, and better to look at."""


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,  # four channels each and more: a channel with a norm of its own forgets how bright it was
        sample_size=SIZE,
    )


def read_pictures(world: Path, per_video: int) -> Tensor:
    """Frames of all videos, evenly spread: uint8 (n 3 SIZE SIZE)."""
    pictures = []
    for video in sorted(world.rglob("*.mp4")):
        with av.open(str(video)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        pictures += [frames[int(i)] for i in np.linspace(0, len(frames) - 1, per_video)]
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).contiguous()


def draw_batch(pictures: Tensor, count: int, crop: int, generator: torch.Generator) -> Tensor:
    """float32 (count 3 crop crop) in [-1, 1]; half of the crops lie around the mouth."""
    which = torch.randint(len(pictures), (count,), generator=generator)
    free = SIZE - crop
    tops, lefts = (torch.rand((2, count), generator=generator) * (free + 1)).long().clamp(max=free)
    middle = torch.rand(count, generator=generator) < 0.5
    sway = (torch.rand((2, count), generator=generator) * 2 - 1) * crop / 4
    tops = torch.where(middle, (0.68 * SIZE - crop / 2 + sway[0]).long().clamp(0, free), tops)
    lefts = torch.where(middle, (0.5 * SIZE - crop / 2 + sway[1]).long().clamp(0, free), lefts)
    crops = [pictures[i, :, top : top + crop, left : left + crop] for i, top, left in zip(which, tops.tolist(), lefts.tolist(), strict=True)]
    return torch.stack(crops).float() / 127.5 - 1


def losses(vae: AutoencoderKL, x: Tensor, noise_generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Total, mean absolute error of the pictures and KL per latent number."""
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=noise_generator)
    y = vae.decode(posterior.mean + posterior.std * noise).sample
    magenta = (torch.minimum(x[:, :1], x[:, 2:]) - x[:, 1:2]).clamp(min=0) * 2
    weight = 1 + MOUTH_WEIGHT * F.max_pool2d(magenta, 5, 1, 2)
    error = (y - x).abs()
    edges = sum((y.diff(dim=dim) - x.diff(dim=dim)).abs().mean() for dim in (-1, -2))
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return (error * weight).mean() + edges + KL_WEIGHT * kl, error.mean().detach(), kl.detach()


def sharpness_error(x: Tensor, y: Tensor) -> Tensor:
    """How much less or more changes from pixel to pixel in pictures ``y`` than in ``x`` (n c h w), over 4×4 pixels each: ()."""
    slopes = [[F.avg_pool2d(each.diff(dim=dim).abs(), 4, 2) for each in (x, y)] for dim in (-1, -2)]
    return sum((b - a).abs().mean() for a, b in slopes)


def train_decoder(models: Path, world: Path, steps: int, seed: int, per_video: int, batch: int) -> None:
    """Train the decoder that is there on, on means and samples of the posteriors, and write it back."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    began, folder, log = time.monotonic(), models / "memo" / "small" / "vae", []
    pictures = read_pictures(world, per_video)
    vae = AutoencoderKL.from_pretrained(folder).float()
    vae.requires_grad_(False)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.05)
    average = torch.optim.swa_utils.AveragedModel(decoder, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    for step in range(1, steps + 1):
        whole = step > 0.7 * steps
        x = draw_batch(pictures, batch // 4 if whole else batch, SIZE if whole else CROP, generator)
        with torch.no_grad():
            posterior = vae.encode(x).latent_dist
            latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator) * 0.5
        y = vae.decode(latents).sample
        magenta = (torch.minimum(x[:, :1], x[:, 2:]) - x[:, 1:2]).clamp(min=0) * 2
        error, sharpness = (y - x).abs(), sharpness_error(x, y)
        edges = sum((y.diff(dim=dim) - x.diff(dim=dim)).abs().mean() for dim in (-1, -2))
        loss = (error * (1 + MOUTH_WEIGHT * F.max_pool2d(magenta, 5, 1, 2))).mean() + 0.5 * edges + SHARPNESS_WEIGHT * sharpness
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(decoder)
        if step % 50 == 0 or step == steps:
            values = {"loss": loss.item(), "error": error.mean().item(), "sharpness": sharpness.item()}
            log.append({"step": step, **values, "seconds": time.monotonic() - began})
            print(json.dumps(log[-1]), flush=True)
    decoder.load_state_dict(average.module.state_dict())
    vae.half().save_pretrained(folder)
    record = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    record["decoder"] = {"seed": seed, "steps": steps, "pictures": len(pictures), "batch": batch, "torch": torch.__version__, "log": log}
    (folder / "training_log.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: Tensor) -> dict:
    """Fold into the two 1×1 convolutions that each latent channel has mean 0 and standard deviation 1 after scaling.

    The decoded pictures stay what they were. Returns what was found before.
    """
    means = torch.cat([vae.encode(batch.float() / 127.5 - 1).latent_dist.mean for batch in pictures.split(16)])
    mean, std = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    target = 1 / vae.config.scaling_factor
    c = len(mean)
    gain = target / std
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:c] *= gain[:, None, None, None]
    encode.bias[:c] = (encode.bias[:c] - mean) * gain
    encode.bias[c:] += 2 * gain.log()
    encode.weight[c:] *= 1.0  # the log variance only moves by a constant
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight /= gain[None, :, None, None]
    return {"latent_mean": mean.tolist(), "latent_std": std.tolist()}


def train(models: Path, world: Path, steps: int, seed: int, per_video: int, batch: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    pictures = read_pictures(world, per_video)
    print(f"{len(pictures)} pictures in {time.monotonic() - began:.0f} s", flush=True)
    vae = make_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, steps, pct_start=0.05)
    average = torch.optim.swa_utils.AveragedModel(vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    folder, log = models / "memo" / "small" / "vae", []
    for step in range(1, steps + 1):
        whole = step > 0.85 * steps  # norms and the attention in the middle see what they will see in use
        x = draw_batch(pictures, batch // 4 if whole else batch, SIZE if whole else CROP, generator)
        loss, error, kl = losses(vae, x, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(vae)
        if step % 50 == 0 or step == steps:
            log.append({"step": step, "loss": loss.item(), "error": error.item(), "kl": kl.item(), "seconds": time.monotonic() - began})
            print(json.dumps(log[-1]), flush=True)
        if step % 500 == 0 or step == steps:
            average.module.save_pretrained(folder)
    vae = average.module.eval()
    found = standardise(vae, pictures[:: max(1, len(pictures) // 512)])
    vae.half().save_pretrained(folder)
    record = {"seed": seed, "steps": steps, "pictures": len(pictures), "batch": batch, "torch": torch.__version__, **found, "log": log}
    (folder / "training_log.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, metavar="MODELS_DIR")
    parser.add_argument("world", type=Path, metavar="WORLD_DIR")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-video", type=int, default=12, help="pictures of each (default: 12)")
    parser.add_argument("--batch", type=int, default=16, help="crops in a step (default: 16)")
    parser.add_argument("--decoder", action="store_true", help="train the decoder that is there on, and nothing else")
    arguments = parser.parse_args()
    (train_decoder if arguments.decoder else train)(
        arguments.models, arguments.world, arguments.steps, arguments.seed, arguments.per_video, arguments.batch
    )


if __name__ == "__main__":
    main()
