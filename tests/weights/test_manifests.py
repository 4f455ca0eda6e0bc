"""At full size every net has exactly the keys and shapes of the published files."""

import pytest

from memo_modules.models.config import DiffusionNetConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.projections import AudioProjection, ImageProjection
from memo_modules.models.reference_net import ReferenceNet
from tests.helpers.full_size import manifest

META = Layers(device="meta")


BUILD = {
    "reference_net": lambda options: ReferenceNet(ReferenceNetConfig.from_dict(options, "manifest"), META),
    "diffusion_net": lambda options: DiffusionNet(DiffusionNetConfig.from_dict(options, "manifest"), META),
    "image_proj": lambda options: ImageProjection(META),
    "audio_proj": lambda options: AudioProjection(META),
}


@pytest.mark.parametrize("component", BUILD)
def test_full_size_keys_and_shapes(component: str):
    expected = manifest(component)
    net = BUILD[component](expected["constructor_kwargs"])
    found = {key: list(tensor.shape) for key, tensor in net.state_dict().items()}
    assert found == expected["keys"]
    assert sum(p.numel() for p in net.parameters()) == expected["n_params"]
