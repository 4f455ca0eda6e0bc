"""The node that makes a video file of any length."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from comfy_api.latest import InputImpl, io

from ..memo_modules.clips import SLOWEST, frame_rate
from ..memo_modules.errors import InputError
from ..memo_modules.portrait.pasting import COLOR_MATCHES, FEATHER, Pasting
from ..memo_modules.types import Audio
from ..memo_modules.video import journal
from ..memo_modules.video.formats import AUDIO_CODECS, PIXEL_FORMATS, VideoFormat
from ..memo_modules.video.long_videos import LongVideo, sample_to_file
from . import comfy_adapter as adapter
from . import comfy_output
from . import comfy_sockets as sockets
from .comfy_lists import Item, ListNode
from .sampler import KEPT_BYTES, KEPT_DAYS, Sampling, decoder_input, noise_input, preset_input, sampling_inputs
from .socket_types import CropSocket, VideoStateSocket

AUTO = "auto"


def file_inputs() -> list[io.Input]:
    """What a node takes that writes a video file, see chosen_format."""
    return [
        io.Audio.Input(
            "sound", optional=True, tooltip="Soundtrack of the file: the audio as loaded, not the vocals. Leave unconnected for a silent video."
        ),
        io.String.Input(
            "filename_prefix",
            default="video/MEMO",
            tooltip="File name prefix, relative to ComfyUI's output folder. May contain %year%, %month% and so on.",
        ),
        io.Combo.Input(
            "codec", options=list(PIXEL_FORMATS), default="h264", tooltip="h264: plays everywhere. ffv1: lossless, 50 to 80 times as large."
        ),
        io.Int.Input(
            "crf",
            default=18,
            min=0,
            max=51,
            tooltip="Quality of h264: lower looks better and makes a larger file. 18 is hard to tell from the frames, 23 is smaller.",
        ),
        io.Combo.Input(
            "pixel_format",
            options=[AUTO, *dict.fromkeys(name for names in PIXEL_FORMATS.values() for name in names)],
            default=AUTO,
            **adapter.known(io.Combo.Input, advanced=True),
            tooltip="auto: yuv420p, which plays everywhere, or exact RGB for ffv1.",
        ),
        io.Combo.Input(
            "audio_codec",
            options=[AUTO, *dict.fromkeys(name for names in AUDIO_CODECS.values() for name in names)],
            default=AUTO,
            **adapter.known(io.Combo.Input, advanced=True),
            tooltip="auto: aac with h264, flac with ffv1. flac keeps sound of 16 or 24 bits exactly; pcm any sound, but older players are "
            "silent. A rate that the codec does not take is resampled, more than 7 channels are mixed.",
        ),
    ]


def fitted(format: VideoFormat, sound) -> tuple[Audio | None, list[str]]:
    """The AUDIO at the input ``sound`` as ``format`` stores it, and what there is to say of that."""
    if sound is None:
        return None, []
    heard, changed = format.fitted(sockets.to_audio(sound, "sound"), adapter.check_interrupt)
    return heard, [changed] if changed else []


def chosen_format(codec: str, crf: int, pixel_format: str, audio_codec: str) -> VideoFormat:
    return VideoFormat(
        codec, crf if codec == "h264" else None, "" if pixel_format == AUTO else pixel_format, "" if audio_codec == AUTO else audio_codec
    )


def label_input() -> io.Input:
    return io.Boolean.Input(
        "label_as_synthetic",
        default=True,
        optional=True,
        **adapter.known(io.Boolean.Input, advanced=True),
        tooltip="The file's metadata says that it was made by AI, and by what. Many sites and some laws ask for it; switch it "
        "off only if another label replaces it.",
    )


def blending_inputs(**options) -> list[io.Input]:
    """How frames go into a photo. options: of the inputs."""
    return [
        io.Float.Input(
            "feather",
            default=FEATHER,
            min=0.0,
            max=0.5,
            step=0.01,
            **options,
            tooltip="Width of the soft border as a fraction of the square's side. "
            "Higher hides seams better but freezes more of the edge; 0 is a hard cut.",
        ),
        io.Combo.Input(
            "color_match",
            options=list(COLOR_MATCHES),
            default="border",
            **options,
            tooltip="border: the frames get the photo's colours, measured along the border of the square, once for all frames. "
            "off: they stay as they are.",
        ),
    ]


def photo_inputs() -> list[io.Input]:
    """What a node takes that pastes what it samples; they go after all others."""
    return [
        io.Image.Input(
            "photo",
            optional=True,
            tooltip="With crop: the frames go back into this photo, at its full resolution. The same photo that went into MEMO Crop Portrait.",
        ),
        CropSocket.Input("crop", optional=True, tooltip="With photo: where the frames belong in it, from MEMO Crop Portrait."),
        *blending_inputs(optional=True, **adapter.known(io.Float.Input, advanced=True)),
    ]


class MemoSampleToFile(ListNode):
    SHOWN = MappingProxyType({"animated": (True,)})

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoSampleToFile",
            display_name="MEMO Sample to File",
            category="MEMO",
            **adapter.known(io.Schema, search_aliases=["talking head", "lip sync", "audio to video", "long video", "save video"]),
            description="Makes a talking video of any length: each clip is written to disk when it is done, so its frames never fill the memory. "
            "If it is interrupted, queue the same workflow again and it continues after the last finished clip.",
            inputs=[
                *sampling_inputs(),
                *file_inputs(),
                io.Float.Input(
                    "output_fps",
                    default=0.0,
                    min=0.0,
                    max=120.0,
                    step=0.001,
                    round=0.000001,
                    tooltip="Frame rate of the file. 0: same as sampled. Other rates repeat or drop frames; "
                    "sample at 30, as MEMO was trained, and write 25 or 60.",
                ),
                io.Combo.Input(
                    "unfinished",
                    options=["output", "temp"],
                    default="output",
                    **adapter.known(io.Combo.Input, advanced=True),
                    tooltip="Where clips are kept until all are done: memo_unfinished in this folder. ComfyUI empties temp whenever it starts. "
                    f"They are removed once the video is finished, otherwise after {KEPT_DAYS} days or beyond {KEPT_BYTES // 10**9} GB.",
                ),
                label_input(),
                noise_input(),
                preset_input(),
                *photo_inputs(),
                decoder_input(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The file, for Save Video and others.", is_output_list=True),
                VideoStateSocket.Output(
                    display_name="state",
                    tooltip="What is needed to continue this video: connect it to the state of another sampler node.",
                    is_output_list=True,
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def prepare(
        cls,
        item,
        filename_prefix,
        codec,
        crf,
        pixel_format,
        audio_codec,
        output_fps,
        unfinished="output",
        sound=None,
        label_as_synthetic=True,
        photo=None,
        crop=None,
        feather=FEATHER,
        color_match="border",
        **inputs,
    ) -> "_Prepared":
        format = chosen_format(codec, crf, pixel_format, audio_codec)
        heard, notes = item.once(("sound", id(sound), format), lambda: fitted(format, sound))
        if 0 < output_fps < SLOWEST:
            raise InputError(f"output_fps: expected 0, which is the rate as sampled, or {SLOWEST} to 120 frames per second, got {output_fps}.")
        sampling = Sampling(**inputs)
        audio, (height, width) = sampling.audio, sampling.portrait.shape[2:]
        video = LongVideo(
            audio,
            sampling.lead_in,
            (width, height),
            heard,
            format,
            frame_rate(output_fps) if output_fps else audio.fps,
            comfy_output.workflow_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo),
            label_as_synthetic,
            _pasting(photo, crop, feather, color_match),
        )
        file_width, file_height = video.file_size
        video.format.check(file_height, file_width, heard, adapter.check_interrupt)
        target = comfy_output.output_file(filename_prefix, video.format.suffix, *video.file_size)
        return _Prepared(sampling, video, target, filename_prefix, unfinished, [*sampling.notes, *notes], item)

    @classmethod
    def make(cls, prepared: "_Prepared", notes) -> tuple[tuple, list]:
        sampling, video = prepared.sampling, prepared.video
        host = adapter.host(cls.hidden.unique_id, prepared.notes, notes)
        with (
            prepared.journal() as opened,
            adapter.says_when_stopped(host, lambda: f"Stopped: Run continues after clip {len(opened.segments)}"),
        ):
            sampling.keep_kernels(opened)
            path, state = sample_to_file(
                video,
                opened,
                lambda state, done: sampling.clips(state, done, host),
                prepared.target,
                start=sampling.state,
                host=host,
                keep=prepared.item.count > 1,
            )
        saved = comfy_output.saved_result(path)
        host.say(video.done("/".join(filter(None, (saved.subfolder, saved.filename)))))
        return (InputImpl.VideoFromFile(str(path)), state), [saved]


@dataclass(frozen=True)
class _Prepared:
    """A file that can be made. target: see sample_to_file. notes: what there is to say of it. item: which of a list it is."""

    sampling: Sampling
    video: LongVideo
    target: Callable[[], Path]
    filename_prefix: str
    unfinished: str
    notes: list[str]
    item: Item

    def journal(self):
        """Where the clips are until the file is there; of a list until all of its files are, so that none is made twice."""
        made_of = self.sampling.inputs()
        made_of = replace(made_of, exact={**made_of.exact, **self.video.of_clips()})
        name = re.sub(r"\W+", "_", self.filename_prefix)[-60:]
        return journal.opened(comfy_output.unfinished_folder(self.unfinished), name, made_of, KEPT_DAYS * 86400, KEPT_BYTES)


def _pasting(photo, crop, feather: float, color_match: str) -> Pasting | None:
    if photo is None and crop is None:
        return None
    if photo is None or crop is None:
        there, missing = ("photo", "crop") if crop is None else ("crop", "photo")
        raise InputError(f"{missing}: expected it together with {there}, got none. Connect both, or neither.")
    return Pasting(photo, crop, feather, color_match)


NODES = [MemoSampleToFile]
