"""Files say that they are synthetic and what made them, in tags and in XMP, unless it is switched off."""

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import av
import pytest
import torch

from memo_modules import __version__
from memo_modules.video.files import join_segments, write_segment, write_video
from memo_modules.video.formats import VideoFormat
from memo_modules.video.provenance import COMMENT, DIGITAL_SOURCE_TYPE, SOFTWARE, TAGS

ROOT = Path(__file__).resolve().parents[2]
FRAMES, FPS = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)), Fraction(30)
MKV = VideoFormat("ffv1", container="mkv")
FORMATS = pytest.mark.parametrize("format", [VideoFormat(), VideoFormat("ffv1"), MKV], ids=["h264", "ffv1", "mkv"])


def boxes(path: Path) -> list[tuple[bytes, bytes]]:
    """(type, content) of each box of the outermost level of an mp4 file."""
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:4], "big")
        assert 8 <= size <= len(data), "a box that is cut off"
        found.append((data[4:8], data[8:size]))
        data = data[size:]
    return found


def program(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"there is no {name} here")


def answer(*command) -> dict:
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@FORMATS
def test_a_file_says_that_it_is_synthetic_and_plays(tmp_path, format):
    path = tmp_path / f"video{format.suffix}"
    write_video(path, FRAMES, FPS, None, format)
    with av.open(str(path)) as container:
        found, frames = dict(container.metadata), len(list(container.decode(video=0)))
    assert frames == 3
    named = {name.upper(): text for name, text in TAGS.items()} if format == MKV else TAGS
    assert found.items() >= dict(named).items()
    assert "Synthetic" in COMMENT and SOFTWARE.endswith(__version__) and DIGITAL_SOURCE_TYPE.endswith("/trainedAlgorithmicMedia")


def test_mp4_holds_the_digital_source_type_as_xmp(tmp_path):
    write_video(tmp_path / "video.mp4", FRAMES, FPS, None)
    *others, (kind, content) = boxes(tmp_path / "video.mp4")
    assert kind == b"uuid" and b"uuid" not in dict(others)
    assert content[:16].hex() == "be7acfcb97a942e89c71999491e3afac"
    [description] = ElementTree.fromstring(content[16:].decode()).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == DIGITAL_SOURCE_TYPE
    assert description.get("{http://ns.adobe.com/xap/1.0/}CreatorTool") == SOFTWARE


@FORMATS
def test_a_label_is_left_out_when_asked_for_and_changes_nothing_else(tmp_path, format):
    segment = tmp_path / "segment"
    write_segment(segment, FRAMES, FPS, format)
    for labelled in (True, False):
        join_segments(tmp_path / str(labelled), [segment], FPS, format, metadata={"workflow": "{}", "comment": "mine"}, labelled=labelled)
    pictures = {}
    for labelled in (True, False):
        with av.open(str(tmp_path / str(labelled))) as container:
            found = {name.lower(): text for name, text in container.metadata.items()}
            pictures[labelled] = [bytes(packet) for packet in container.demux(video=0)]
        assert found["workflow"] == "{}"
        assert found["comment"] == (COMMENT if labelled else "mine")
        assert ("digitalsourcetype" in found, "software" in found) == (labelled, labelled)
    assert pictures[True] == pictures[False]
    assert DIGITAL_SOURCE_TYPE.encode() not in (tmp_path / "False").read_bytes()


@FORMATS
def test_ffprobe_shows_it(tmp_path, format):
    path = tmp_path / f"video{format.suffix}"
    write_video(path, FRAMES, FPS, None, format)
    tags = answer(program("ffprobe"), "-v", "error", "-show_format", "-of", "json", path)["format"]["tags"]
    assert {name.lower(): text for name, text in tags.items()}.items() >= {name.lower(): text for name, text in TAGS.items()}.items()


@FORMATS
def test_exiftool_shows_it(tmp_path, format):
    path = tmp_path / f"video{format.suffix}"
    write_video(path, FRAMES, FPS, None, format)
    [found] = answer(program("exiftool"), "-json", "-G1", path)
    assert {COMMENT, SOFTWARE, DIGITAL_SOURCE_TYPE} <= set(map(str, found.values()))
    if format != MKV:
        assert found["XMP-iptcExt:DigitalSourceType"] == DIGITAL_SOURCE_TYPE and "Warning" not in " ".join(found)


def test_the_version_is_that_of_the_project():
    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
