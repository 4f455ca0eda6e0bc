"""The three networks in ONNX files as those who publish them export them from torch, layer for layer, but small."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from memo_modules.weights.onnx_sessions import quiet
from tools.tiny_onnx import ANCHORS, STRIDES


class Detector(nn.Module):
    """As SCRFD: features at three strides, joined both ways with sizes that are taken from tensors; per stride a score, a box, landmarks."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 4, 1)
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()) for _ in STRIDES)
        self.across = nn.ModuleList(nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(width, width, 1)) for _ in STRIDES[1:])
        self.heads = nn.ModuleList(nn.Conv2d(width, ANCHORS * values, 3, 1, 1) for values in (1, 4, 10))
        self.scale = nn.Parameter(torch.ones(len(STRIDES)))

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        x, levels = self.first(picture), []
        for layer in self.down:
            x = layer(x)
            levels.append(x)
        for level in (1, 0):
            levels[level] = levels[level] + functional.interpolate(levels[level + 1], size=levels[level].shape[2:], mode="nearest")
        levels[1] = levels[1] + functional.interpolate(levels[2], scale_factor=2, mode="nearest")
        for level, layer in enumerate(self.across, 1):
            levels[level] = levels[level] + layer(levels[level - 1])
        made = []
        for head, values in zip(self.heads, (1, 4, 10), strict=True):
            for level, x in enumerate(levels):
                found = head(x) * self.scale[level]
                found = found.permute(0, 2, 3, 1).reshape(-1, values)
                made.append(torch.sigmoid(found) if values == 1 else found)
        return tuple(made)


class Recogniser(nn.Module):
    """As the residual nets of ArcFace: 112 x 112 to 512 numbers."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width))
        self.block = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1), nn.PReLU(width), nn.Conv2d(width, width, 3, 4, 1))
        self.shortcut = nn.Conv2d(width, width, 1, 4)
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.Dropout(), nn.Flatten(), nn.Linear(width * 28 * 28, 512), nn.BatchNorm1d(512))

    def forward(self, picture: Tensor) -> Tensor:
        x = self.first(picture)
        return self.last(self.block(x) + self.shortcut(x))


class Separator(nn.Module):
    """As the MDX nets of Ultimate Vocal Remover, with audio-separator's own blocks."""

    def __init__(self, frequencies: int, normed_in_groups: bool, width: int = 4):
        super().__init__()
        from audio_separator.separator.uvr_lib_v5.modules import TFC_TDF

        norm = (lambda channels: nn.GroupNorm(2, channels)) if normed_in_groups else nn.BatchNorm2d
        self.first = nn.Sequential(nn.Conv2d(4, width, 1), norm(width), nn.ReLU())
        self.above = TFC_TDF(width, 2, frequencies, 3, 8, norm=norm)
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 2, 2), norm(2 * width), nn.ReLU())
        self.below = TFC_TDF(2 * width, 2, frequencies // 2, 3, 8, norm=norm)
        self.up = nn.Sequential(nn.ConvTranspose2d(2 * width, width, 2, 2), norm(width), nn.ReLU())
        self.last = nn.Conv2d(width, 4, 1)

    def forward(self, spectrum: Tensor) -> Tensor:
        x = self.above(self.first(spectrum).transpose(-1, -2))
        x = self.up(self.below(self.down(x))) * x
        return self.last(x.transpose(-1, -2))


def export(net: nn.Module, path: Path, shape: tuple[int, ...], opset: int, name: str, **may_vary: list[int]) -> None:
    """may_vary: of an input or output, the sides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    outputs = [made for made in may_vary if made != name]
    with quiet():
        torch.onnx.export(
            net.eval(),
            torch.zeros(shape),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=[name],
            output_names=outputs,
            dynamic_axes=may_vary,
        )
