"""Small projections of the face embedding and the audio states to the width of the attentions.

Their published config.json carry no sizes, so sizes are read from the weights.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Layers


class ImageProjection(nn.Module):
    """Face embeddings (b d_face) to tokens (b t d)."""

    def __init__(self, layers: Layers, d_face: int = 512, tokens: int = 4, d: int = 768):
        super().__init__()
        self.d = d
        self.d_face = d_face
        self.proj = layers.linear(d_face, tokens * d)
        self.norm = layers.layer_norm(d)

    @staticmethod
    def sizes(weights: dict[str, Tensor]) -> dict[str, int]:
        """Constructor sizes that fit ``weights``."""
        (d,) = weights["norm.weight"].shape
        rows, d_face = weights["proj.weight"].shape
        return {"d_face": d_face, "tokens": rows // d, "d": d}

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding).unflatten(-1, (-1, self.d)))


class AudioProjection(nn.Module):
    """Windows of audio states (.. window layers channels) to tokens (.. t d)."""

    def __init__(self, layers: Layers, d_in: int = 5 * 12 * 768, d_hidden: int = 512, tokens: int = 32, d: int = 768):
        super().__init__()
        self.d = d
        self.d_in = d_in
        self.proj1 = layers.linear(d_in, d_hidden)
        self.proj2 = layers.linear(d_hidden, d_hidden)
        self.proj3 = layers.linear(d_hidden, tokens * d)
        self.norm = layers.layer_norm(d)

    @staticmethod
    def sizes(weights: dict[str, Tensor]) -> dict[str, int]:
        """Constructor sizes that fit ``weights``."""
        (d,) = weights["norm.weight"].shape
        d_hidden, d_in = weights["proj1.weight"].shape
        return {"d_in": d_in, "d_hidden": d_hidden, "tokens": weights["proj3.weight"].shape[0] // d, "d": d}

    def forward(self, windows: Tensor) -> Tensor:
        h = F.relu(self.proj2(F.relu(self.proj1(windows.flatten(-3)))))
        return self.norm(self.proj3(h).unflatten(-1, (-1, self.d)))
