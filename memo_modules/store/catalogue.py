"""Every file that MEMO needs, as data in catalogue.json: whence, where to, how large, under which licence."""

import json
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFile:
    """A file of a repository of the Hugging Face hub.

    target: where it belongs, below a model folder of its kind. size: bytes, and sha256: hexadecimal; None where the hub
    is asked for them. needed: whether anything here reads it. recorded: the SHA-256 that the hub's own record gives, which nobody has
    compared with a download yet: another one is told, and not refused.
    """

    repository: str
    revision: str
    path: str
    target: str
    size: int | None
    sha256: str | None
    needed: bool
    recorded: str | None = None

    def difference(self, sha256: str) -> str | None:
        """What to tell of a content that is not the recorded one."""
        if self.recorded in (None, sha256):
            return None
        return f"it has SHA-256 {sha256}, where the hub's record of revision {self.revision[:7]} says {self.recorded}"


@dataclass(frozen=True)
class Model:
    """A model by its role.

    kind: of ComfyUI's model folders, the one where it belongs; also_in: other kinds it may lie in. name: under which a
    loader lists the published one. without: how a workflow does
    without it, None when it cannot. about: its size where that of its files is not known.
    """

    role: str
    title: str
    repository: str
    licence: str
    kind: str
    also_in: tuple[str, ...]
    name: str
    without: str | None
    about: str | None
    files: tuple[ModelFile, ...]

    @property
    def size(self) -> int:
        """Bytes of the files that are needed; as ``about`` says where the catalogue has no sizes."""
        sizes = [file.size for file in self.needed if file.size]
        stated = re.match(r"([\d.]+) (MB|GB)", self.about or "")
        if len(sizes) == len(self.needed) or stated is None:
            return sum(sizes)
        number, unit = stated.groups()
        return round(float(number) * {"MB": 1e6, "GB": 1e9}[unit])

    @property
    def needed(self) -> list[ModelFile]:
        return [file for file in self.files if file.needed]


def _model(role: str, entry: dict) -> Model:
    files = tuple(
        ModelFile(
            entry["repository"],
            entry["revision"],
            file["path"],
            file.get("target", f"{entry['name']}/{file['path']}"),
            file.get("size"),
            file.get("sha256"),
            file.get("needed", True),
            file.get("recorded"),
        )
        for file in entry["files"]
    )
    return Model(
        role,
        entry["title"],
        entry["repository"],
        entry["licence"],
        entry["kind"],
        tuple(entry.get("also_in", ())),
        entry["name"],
        entry.get("without"),
        entry.get("about"),
        files,
    )


CATALOGUE: dict[str, Model] = {
    role: _model(role, entry) for role, entry in json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8")).items()
}
"""By role."""
