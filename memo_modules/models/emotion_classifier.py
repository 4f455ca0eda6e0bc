"""The emotion classifier: a small MLP on the mean of emotion2vec's states."""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Layers


class EmotionClassifier(nn.Module):
    """Mean emotion2vec states (b d_in) to logits (b classes). A single layer is stored without a name of its own."""

    def __init__(self, layers: Layers, depth: int = 5, width: int = 2048, d_in: int = 1024, classes: int = 9):
        super().__init__()
        widths = [d_in] + [width] * (depth - 1) + [classes]
        linears = [layers.linear(a, b) for a, b in pairwise(widths)]
        self.depth = depth
        self.layers = linears[0] if depth == 1 else nn.Sequential(OrderedDict((f"fc{i}", fc) for i, fc in enumerate(linears, 1)))

    @staticmethod
    def sizes(weights: dict[str, Tensor]) -> dict[str, int]:
        """Constructor sizes that fit ``weights``; its published config.json carries none."""
        if "layers.weight" in weights:
            classes, d_in = weights["layers.weight"].shape
            return {"depth": 1, "d_in": d_in, "classes": classes}
        depth = sum(key.startswith("layers.fc") and key.endswith(".weight") for key in weights)
        width, d_in = weights["layers.fc1.weight"].shape
        return {"depth": depth, "width": width, "d_in": d_in, "classes": weights[f"layers.fc{depth}.weight"].shape[0]}

    def forward(self, x: Tensor) -> Tensor:
        if self.depth == 1:
            return self.layers(x)
        *hidden, last = self.layers.children()
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)

    def probabilities(self, x: Tensor) -> Tensor:
        """Probability of each class (b classes), which the published module gives out."""
        return self(x).softmax(dim=-1)
