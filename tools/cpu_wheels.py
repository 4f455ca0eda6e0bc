"""Makes CUDA builds of torchvision and torchaudio importable next to a CPU build of torch, in the Python that runs this.

torchaudio takes a missing extension for "not built" and continues: resampling and the like are plain torch. torchvision
does too, except that it registers fake kernels for nms and qnms in any case; declared here, with an nms in Python, they
are there to be registered.
"""

import importlib.util
from pathlib import Path

_CPU_OPS = """import torch

library = torch.library.Library("torchvision", "FRAGMENT")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def nms(boxes, scores, iou_threshold):
    order, keep = scores.argsort(descending=True), []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while order.numel():
        best, order = order[0], order[1:]
        keep.append(best)
        sides = torch.minimum(boxes[best, 2:], boxes[order, 2:]) - torch.maximum(boxes[best, :2], boxes[order, :2])
        overlap = sides.clamp(min=0).prod(dim=1)
        order = order[overlap / (area[best] + area[order] - overlap) <= iou_threshold]
    return torch.stack(keep) if keep else torch.empty(0, dtype=torch.long)


library.impl("nms", nms, "CPU")
"""
_IMPORT = "\nfrom . import _cpu_ops  # noqa: E402, F401\n"


def main() -> None:
    packages = Path(importlib.util.find_spec("torch").origin).parents[1]
    for library in [*packages.glob("torchaudio/lib/*.so"), *packages.glob("torchvision/*.so")]:
        library.unlink()
    (packages / "torchvision" / "_cpu_ops.py").write_text(_CPU_OPS, encoding="utf-8")
    extension = packages / "torchvision" / "extension.py"
    text = extension.read_text(encoding="utf-8")
    if _IMPORT not in text:
        extension.write_text(text + _IMPORT, encoding="utf-8")


if __name__ == "__main__":
    main()
