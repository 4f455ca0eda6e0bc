from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def misc(tmp_path_factory) -> Path:
    """The folder of this name in a checkpoint, with the ONNX files."""
    pytest.importorskip("onnx")
    from memo_modules.portrait.face import DETECTOR_FILE, RECOGNISER_FILE
    from tools.tiny_onnx import write_detector, write_recogniser, write_vocal_separator

    misc = tmp_path_factory.mktemp("checkpoint") / "misc"
    write_vocal_separator(misc / "vocal_separator" / "Kim_Vocal_2.onnx")
    write_detector(misc / "face_analysis" / "models" / DETECTOR_FILE)
    write_recogniser(misc / "face_analysis" / "models" / RECOGNISER_FILE)
    return misc
