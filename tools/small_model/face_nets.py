"""The small world's face detector and recogniser as torch modules, and their losses.

Dimension letters: b batch, k faces of a picture, a anchors, d channels, h w a grid of points.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.small_model.face_data import SIDE

CANVAS = 640
SHRINK = CANVAS // SIDE
"""The detector averages the canvas down by this first."""

ANCHORS = {16: (64.0, 128.0), 32: (256.0, 512.0)}
"""Sides of faces, the root of a box's area in pixels of the canvas, that the anchors of a stride are for: each for one octave."""

WIDTHS = (16, 32, 48, 48)
"""Channels of the detector at strides 8, 16, 32 and 64."""

NEAR, AROUND = (0.11, 0.55), (0.32, 1.2)
"""How far from the middle of a face a point stands for it, and how far it may: in parts of the face's side, and at least in
strides, so that every face has a point."""

SCORES, PLACES = 1.0, 20.0
"""Weights of the two parts of the detector's loss."""

CROP, EMBEDDING = 112, 512


class Conv(nn.Sequential):
    """A convolution with batch norm, and a rectifier unless ``relu`` is False."""

    def __init__(self, d_in: int, d_out: int, kernel: int = 3, stride: int = 1, relu: bool = True):
        super().__init__(nn.Conv2d(d_in, d_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(d_out))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.relu(x) if self.relu else x

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the same convolution without batch norm."""
        conv, norm = self
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return conv.weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor


class Residual(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.first, self.second = Conv(d, d), Conv(d, d, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Detector(nn.Module):
    """(b 3 SIDE SIDE), RGB as (value - 127.5) / 128, to {stride: (b h w a 15)}: a score before the sigmoid, the distances
    from the grid's point to the left, top, right and bottom of the box, and the landmarks from that point, in units of
    the anchor's side."""

    def __init__(self):
        super().__init__()
        d8, d16, d32, d64 = WIDTHS
        self.stem = nn.Sequential(Conv(3, d8, stride=2), Conv(d8, d16, stride=2), Residual(d16))
        self.deep = nn.ModuleList((nn.Sequential(Conv(d16, d32, stride=2), Residual(d32)), nn.Sequential(Conv(d32, d64, stride=2), Residual(d64))))
        self.back = nn.ModuleList((Conv(d64, d32, kernel=1), Conv(d32, d16, kernel=1)))
        self.necks = nn.ModuleList((Conv(d16, d16), Conv(d32, d32)))
        self.heads = nn.ModuleList(nn.Conv2d(d, 2 * 15, 1) for d in (d16, d32))
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
            head.bias.data[[0, 15]] = -4.0  # nearly all points are none of a face

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        fine = self.stem(x)
        middle = self.deep[0](fine)
        middle = middle + F.interpolate(self.back[0](self.deep[1](middle)), scale_factor=2.0, mode="nearest")
        fine = fine + F.interpolate(self.back[1](middle), scale_factor=2.0, mode="nearest")
        outputs = [head(neck(features)) for head, neck, features in zip(self.heads, self.necks, (fine, middle), strict=True)]
        return {stride: out.permute(0, 2, 3, 1).unflatten(-1, (2, 15)) for stride, out in zip(ANCHORS, outputs, strict=True)}


class Recogniser(nn.Module):
    """(b 3 CROP CROP), RGB as (value - 127.5) / 127.5, to a character's vector, standardised: (b d)."""

    def __init__(self, size: int):
        super().__init__()
        self.body = nn.Sequential(
            Conv(3, 16, stride=2),
            Conv(16, 24, stride=2),
            Residual(24),
            Conv(24, 40, stride=2),
            Residual(40),
            Conv(40, 48, stride=2),
            Residual(48),
            Conv(48, 16, kernel=1),
        )
        self.head = nn.Linear(16 * (CROP // 16) ** 2, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


@dataclass(frozen=True)
class Truth:
    """Faces of a batch in pixels of the canvas, filled up to the largest number of faces with boxes far outside: boxes
    (b k 4), landmarks (b k 5 2), wanted (b k)."""

    boxes: Tensor
    landmarks: Tensor
    wanted: Tensor


def detection_loss(outputs: dict[int, Tensor], truth: Truth) -> Tensor:
    """Of a batch, per face that is to be found."""
    score_loss, place_loss, faces = 0.0, 0.0, 0
    for stride, bases in ANCHORS.items():
        for anchor, base in enumerate(bases):
            losses = _anchor_losses(outputs[stride][..., anchor, :], truth, stride, base)
            score_loss, place_loss, faces = score_loss + losses[0], place_loss + losses[1], faces + losses[2]
    return (SCORES * score_loss + PLACES * place_loss) / max(1, faces)


def _anchor_losses(output: Tensor, truth: Truth, stride: int, base: float) -> tuple[Tensor, Tensor, int]:
    """Those of the scores and of the places, summed over the points of one anchor (b h w 15), and the number of its faces."""
    height, width = output.shape[1:3]
    y, x = torch.meshgrid(torch.arange(height) * float(stride), torch.arange(width) * float(stride), indexing="ij")
    points = torch.stack((x, y), dim=-1)  # (h w 2)
    middles, sizes = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2, truth.boxes[..., 2:] - truth.boxes[..., :2]
    sides = sizes.prod(dim=-1).clamp_min(1.0).sqrt()  # (b k)
    off = (points - middles[:, :, None, None]).abs().amax(dim=-1)  # (b k h w)
    octaves = torch.log2(sides / base).abs()[..., None, None]
    near, around = ((share * sides).clamp_min(least * stride)[..., None, None] for share, least in (NEAR, AROUND))
    stands = (off < near) & (octaves <= 0.5) & truth.wanted[..., None, None]
    either = ((off < around) & (octaves <= 0.8)).any(dim=1)  # also in the middle of faces that are cut off
    positive = stands.any(dim=1)
    # Focal: what is already right weighs little, so that the many empty points do not drown the few faces.
    cross = F.binary_cross_entropy_with_logits(output[..., 0], positive.float(), reduction="none")
    losses = (1 - torch.exp(-cross)) ** 2 * cross

    counts = stands.sum(dim=(2, 3))  # points of each face, which weighs 1 with few and with many
    weights = (stands / counts.clamp_min(1)[..., None, None]).amax(dim=1)
    score_loss = (losses * (~positive & ~either)).sum() + 4 * (losses * weights).sum()
    b, row, column = positive.nonzero(as_tuple=True)
    if len(b) == 0:
        return score_loss, output.sum() * 0, 0
    k = torch.where(stands, off, torch.inf)[b, :, row, column].argmin(dim=1)
    at, boxes, landmarks, side = points[row, column], truth.boxes[b, k], truth.landmarks[b, k], sides[b, k]
    distances = torch.cat((at - boxes[:, :2], boxes[:, 2:] - at, (landmarks - at[:, None]).flatten(1)), dim=1)
    errors = (output[b, row, column, 1:] * base - distances) / side[:, None]
    place_losses = F.smooth_l1_loss(errors, torch.zeros_like(errors), beta=0.02, reduction="none").mean(dim=1)
    return score_loss, (place_losses * weights[b, row, column]).sum(), int((counts > 0).sum())
