"""Which sound core's own video files take: its Create Video and Save Video find out when all frames are made."""

from collections.abc import Mapping
from functools import cache
from io import BytesIO

import torch
from comfy_api.latest import InputImpl, Types

from ..memo_modules.audio.io import MOST_CHANNELS, SAMPLE_RATES, mixed_down, resample
from ..memo_modules.errors import InputError
from ..memo_modules.progress import counted
from ..memo_modules.pyav import open_to_read
from ..memo_modules.types import Audio
from ..memo_modules.video.formats import storable_rate
from . import comfy_adapter as adapter

MP4, WEBM = "mp4", "webm"


@cache
def takes(channels: int, sample_rate: int, container: str = MP4) -> bool:
    """Whether core writes sound like that, tried on a frame and a moment of silence: it depends on its version."""
    silence = {"waveform": torch.zeros(1, channels, 4096), "sample_rate": sample_rate}
    file = BytesIO()
    try:
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=torch.zeros(1, 64, 64, 3), audio=silence, frame_rate=1))
        video.save_to(file, format=Types.VideoContainer(container))
        file.seek(0)
        with open_to_read(file) as written:
            context = written.streams.audio[0].codec_context
            kept = channels in (1, context.layout.nb_channels)  # ComfyUI 0.8 writes one channel into both of a stereo file
            return kept and (container == WEBM or context.sample_rate == sample_rate)
    except Exception:  # of PyAV, or of core: whatever it is, the video would end the same way
        return False


def fitted(audio: Audio) -> Audio:
    """``audio`` as it is where core takes it, else with one channel and with a rate that AAC knows."""
    if not takes(audio.waveform.shape[0], storable_rate("aac", audio.sample_rate)):
        audio = mixed_down(audio, adapter.check_interrupt)
    return resample(audio, storable_rate("aac", audio.sample_rate), adapter.check_interrupt)


def check_sound(hidden: object, name: str, audio: Mapping) -> None:
    """Look where else the AUDIO at the input ``name`` of a node goes, by the prompt in the node's ``hidden`` values.

    Raises InputError where that is a Create Video that could not save it: better now than when all frames are made.
    """
    prompt, node = getattr(hidden, "prompt", None), getattr(hidden, "unique_id", None)
    nodes = prompt if isinstance(prompt, Mapping) else {}
    link, waveform, rate = _inputs(nodes.get(node)).get(name), audio["waveform"], audio["sample_rate"]
    channels = waveform.shape[-2] if waveform.ndim > 1 else 1
    if not 1 <= channels <= MOST_CHANNELS or not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        return  # it is refused in any case
    for maker in _taking(nodes, "CreateVideo", "audio", link):
        savers = [_inputs(nodes[saver]) for saver in _taking(nodes, "SaveVideo", "video", [maker, 0])]
        containers = {WEBM if saver.get("format") == WEBM else MP4 for saver in savers} or {MP4}
        if not all(takes(channels, int(rate), container) for container in containers):
            raise InputError(
                f"{name}: it also goes into Create Video, whose files cannot hold {counted(channels, 'channel')} at {int(rate)} samples per second. "
                "Convert it to stereo at 48000 first, or end in MEMO Sample to File, which does so by itself."
            )


def _inputs(node: object) -> Mapping:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def _taking(nodes: Mapping, kind: str, name: str, link: object) -> list[str]:
    """The nodes of a class whose input ``name`` is connected to ``link``."""
    if not isinstance(link, list):
        return []
    return [key for key, node in nodes.items() if isinstance(node, Mapping) and node.get("class_type") == kind and _inputs(node).get(name) == link]
