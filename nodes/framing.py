"""The nodes that cut a portrait out of a photo, and put its frames back."""

from comfy_api.latest import InputImpl, io, ui

from ..memo_modules.clips import frame_rate
from ..memo_modules.portrait.framing import CROP_MULTIPLE, MARGIN, crop_portrait
from ..memo_modules.portrait.pasting import mask, paste, paste_to_file
from ..memo_modules.portrait.pictures import rgb_frames, rgb_picture
from . import comfy_adapter as adapter
from . import comfy_output
from .comfy_lists import PreparingNode
from .socket_types import CropSocket, FaceAnalysisSocket
from .video import blending_inputs, chosen_format, file_inputs, fitted, label_input

CATEGORY = "MEMO/portrait"


class MemoCropPortrait(PreparingNode):
    @classmethod
    def define_schema(cls):
        by_hand = adapter.known(io.Int.Input, advanced=True)
        return io.Schema(
            node_id="MemoCropPortrait",
            display_name="MEMO Crop Portrait",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["crop face", "face detection", "square crop", "bounding box"]),
            description="Finds a face in a photo of any shape and cuts out the square around it, never squashed, for MEMO Sampler. "
            "The node shows where the square lies. MEMO Paste Back puts the frames back into the photo.",
            inputs=[
                FaceAnalysisSocket.Input("face_analysis", tooltip="From Load MEMO Face Analysis."),
                io.Image.Input("image", tooltip="The photo at full resolution, one RGB picture."),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=99,
                    tooltip="Which face, by size: 0 is the largest. Use the same number in MEMO Embed Face if that gets the photo, 0 if it gets the "
                    "portrait.",
                ),
                io.Float.Input(
                    "margin",
                    default=MARGIN,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Room on each side of the face, as a fraction of the face's size. More shows more hair and shoulders and a smaller face; "
                    f"at {MARGIN} the face is as large as in MEMO's own samples.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=CROP_MULTIPLE,
                    max=2048,
                    step=CROP_MULTIPLE,
                    tooltip="Width and height of the portrait in pixels; set the sampler to the same. MEMO was trained at 512; more takes longer.",
                ),
                io.Int.Input(
                    "box_size",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    **by_hand,
                    tooltip="0: the face is found. Otherwise the size, in pixels of the photo, of a square around a face that cannot be found, "
                    "such as that of a drawing or an animal; margin adds room to it. Switch on allow_no_face in MEMO Embed Face, too.",
                ),
                io.Int.Input(
                    "box_x",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    **by_hand,
                    tooltip="Left edge of that square, in pixels from the left of the photo.",
                ),
                io.Int.Input(
                    "box_y",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    **by_hand,
                    tooltip="Upper edge of that square, in pixels from the top of the photo.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The portrait, for the MEMO Sampler.", is_output_list=True),
                CropSocket.Output(display_name="crop", tooltip="Where it lies in the photo, for MEMO Paste Back.", is_output_list=True),
            ],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def one(cls, face_analysis, image, index, margin, size, box_size=0, box_x=0, box_y=0) -> io.NodeOutput:
        photo, host = rgb_picture(image), adapter.host(cls.hidden.unique_id)
        adapter.bring_in(face_analysis)
        box = (box_x, box_y, box_x + box_size, box_y + box_size) if box_size else None
        portrait, crop, preview = crop_portrait(face_analysis.model, photo[0], index, margin, size, box, host)
        return io.NodeOutput(portrait, crop, ui=ui.PreviewImage(preview))


def pasting_inputs() -> list[io.Input]:
    return [
        io.Image.Input(
            "photo", tooltip="The same photo that went into MEMO Crop Portrait. Or a picture for each frame, from another MEMO Paste Back."
        ),
        io.Image.Input("images", tooltip="The frames: from MEMO Sampler, or upscaled or restored after it. Square, of any size."),
        CropSocket.Input("crop", tooltip="Where they belong: from MEMO Crop Portrait."),
        *blending_inputs(),
    ]


class MemoPasteBack(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoPasteBack",
            display_name="MEMO Paste Back",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["paste face", "uncrop", "composite", "stitch"]),
            description="Puts frames back into the photo that their portrait was cut from, at its full resolution, with a soft border. "
            "Each frame becomes as large as the photo: for large photos use MEMO Paste Back to File.",
            inputs=pasting_inputs(),
            outputs=[
                io.Image.Output(display_name="images", tooltip="The photo, once for each frame, with the frame in it."),
                io.Mask.Output(display_name="mask", tooltip="What comes from the frames: 1 inside, 0 outside, one mask of the photo's size."),
            ],
        )

    @classmethod
    def execute(cls, photo, images, crop, feather, color_match) -> io.NodeOutput:
        frames, (width, height) = len(rgb_frames(images)), crop.photo_size
        adapter.check_room(
            frames * height * width * 3 * 4,
            f"images: {frames} frames of {width} x {height}",
            "Use MEMO Paste Back to File, or scale the photo down first.",
        )
        return io.NodeOutput(paste(photo, images, crop, feather, color_match, adapter.host()), mask(crop, feather))


class MemoPasteBackToFile(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoPasteBackToFile",
            display_name="MEMO Paste Back to File",
            category=CATEGORY,
            **adapter.known(io.Schema, search_aliases=["paste face", "uncrop", "composite video", "save video"]),
            description="Puts frames back into the photo that their portrait was cut from, and writes each straight into a video file: "
            "only one frame of the photo's size is in memory at a time, so photos of 24 megapixels work.",
            inputs=[
                *pasting_inputs(),
                io.Float.Input("fps", default=30.0, min=1.0, max=240.0, step=0.001, round=0.000001, tooltip="Frames per second: from MEMO Sampler."),
                *file_inputs(),
                label_input(),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file, for Save Video and others.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        photo,
        images,
        crop,
        feather,
        color_match,
        fps,
        filename_prefix,
        codec,
        crf,
        pixel_format,
        audio_codec,
        sound=None,
        label_as_synthetic=True,
    ) -> io.NodeOutput:
        format = chosen_format(codec, crf, pixel_format, audio_codec)
        heard, notes = fitted(format, sound)
        clipped = format.clipped(heard, adapter.check_interrupt)
        host = adapter.host(cls.hidden.unique_id, [*notes, *([clipped] if clipped else [])])
        metadata = comfy_output.workflow_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        target = comfy_output.output_file(filename_prefix, format.suffix, *crop.photo_size)
        path = paste_to_file(
            target(),
            photo,
            images,
            crop,
            frame_rate(fps),
            format,
            heard,
            metadata,
            feather,
            color_match,
            host,
            label_as_synthetic,
            target,
        )
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=ui.PreviewVideo([comfy_output.saved_result(path)]))


NODES = [MemoCropPortrait, MemoPasteBack, MemoPasteBackToFile]
