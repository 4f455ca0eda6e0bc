"""The node that describes whose face it is."""

from comfy_api.latest import io

from ..memo_modules.portrait.face import embed_face
from ..memo_modules.portrait.pictures import rgb_picture
from . import comfy_adapter as adapter
from .comfy_lists import PreparingNode
from .socket_types import FaceAnalysisSocket, FaceSocket


class MemoEmbedFace(PreparingNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MemoEmbedFace",
            display_name="MEMO Embed Face",
            category="MEMO/conditioning",
            **adapter.known(io.Schema, search_aliases=["face id", "identity", "face embedding", "insightface"]),
            description="Finds the face in the portrait and describes who it is. Give it the picture as loaded, before any resize.",
            inputs=[
                FaceAnalysisSocket.Input("face_analysis", tooltip="From Load MEMO Face Analysis."),
                io.Image.Input("image", tooltip="The portrait at full resolution, one RGB picture."),
                io.Int.Input("index", default=0, min=0, max=99, tooltip="Which face, by size: 0 is the largest."),
                io.Boolean.Input(
                    "allow_no_face",
                    default=False,
                    tooltip="Continue without a face (paintings, animals): the identity then comes from the picture alone. "
                    "When off, a missing face is an error.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[FaceSocket.Output(display_name="face", tooltip="For the MEMO Sampler.", is_output_list=True)],
            is_input_list=True,
        )

    @classmethod
    def one(cls, face_analysis, image, index, allow_no_face) -> io.NodeOutput:
        picture = rgb_picture(image)
        adapter.bring_in(face_analysis)
        return io.NodeOutput(embed_face(face_analysis.model, picture[0], index, allow_no_face, adapter.host(cls.hidden.unique_id)))


NODES = [MemoEmbedFace]
