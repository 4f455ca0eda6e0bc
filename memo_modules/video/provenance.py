"""What a file says of itself: that it is synthetic media, and what made it.

The tags are for whoever looks, with ffprobe, exiftool or a player. XMP holds the same by the names of IPTC's standard for
AI-made media (https://iptc.org/standards/photo-metadata), which sites that label such media read.
"""

from pathlib import Path
from types import MappingProxyType

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import __version__
from ..files.whole_files import whole_file

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's name for what a trained model made."""

SOFTWARE = f"ComfyUI-MEMO {__version__}"

COMMENT = "Synthetic media: an AI model (MEMO, arXiv 2412.04448) made this person move and speak."

TAGS = MappingProxyType({"comment": COMMENT, "software": SOFTWARE, "DigitalSourceType": DIGITAL_SOURCE_TYPE})
"""Of a container, by name."""

XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"
    xmp:CreatorTool="{SOFTWARE}">
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{COMMENT}</rdf:li></rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
"""The same as an XMP packet, for files that can carry one."""

_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # XMP specification, part 3: ISO base media files


def append_xmp(path: Path) -> None:
    """Give a closed mp4 file the XMP packet, as one more box after all others."""
    packet = XMP.encode()
    with path.open("ab") as file:
        file.write((8 + len(_XMP_BOX) + len(packet)).to_bytes(4, "big") + b"uuid" + _XMP_BOX + packet)


def write_png(path: Path, picture: Image.Image) -> None:
    """A picture of what was made, as a PNG that carries the tags and the XMP packet."""
    info = PngInfo()
    for name, text in TAGS.items():
        info.add_text(name[0].upper() + name[1:], text)  # as PNG's own keywords are written
    info.add_itxt("XML:com.adobe.xmp", XMP)
    with whole_file(path) as partial:
        picture.save(partial, "PNG", pnginfo=info)
