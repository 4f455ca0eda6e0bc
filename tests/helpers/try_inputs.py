"""Run by test_inputs.py in a process of its own: hands nodes what they must refuse, and prints in JSON what each said.

Arguments: the pack's folder, ComfyUI's base directory, and a folder next to it that nothing may look into.
"""

import dataclasses
import hashlib
import importlib.util
import json
import re
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

pack, base, outside = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--base-directory", base]

import comfy.options

comfy.options.enable_args_parsing()

import torch
from comfy_api.latest import InputImpl

spec = importlib.util.spec_from_file_location("pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])

from crafted_values import OF_NUMBERS, alike, of_socket
from input_rows import INPUTS, NAMES, PREFIXES, widget_names
from pack.memo_modules.audio.emotion import constant_emotion
from pack.memo_modules.errors import InputError, MemoError
from pack.memo_modules.types import AudioFeatures, Crop, Face, VideoState
from pack.nodes import NODES, checks, comfy_adapter, comfy_output
from pack.nodes.comfy_lists import Item, ListNode
from pack.nodes.sampler import Sampling
from server import PromptServer

comfy_adapter.register_model_folder()
BY_NAME = {node.__name__: node for node in NODES}
PromptServer.instance = SimpleNamespace(send_progress_text=lambda text, node_id: None)
for node in NODES:
    node.hidden = SimpleNamespace(prompt=None, extra_pnginfo=None, unique_id="1")


class Thing:
    """What another pack might send; it has the method of a sampler."""

    def sample(self):
        return None


def loaded(node: str):
    """What a loader gives, of the tiny checkpoint."""
    return BY_NAME[node].execute(**{widget: good for (loader, widget), good in NAMES.items() if loader == node})[0]


MODELS = loaded("MemoLoadAll")
GOOD = {
    "MEMO_MODEL": MODELS.model,
    "MEMO_MODELS": MODELS,
    "MEMO_AUDIO_ENCODER": MODELS.audio_encoder,
    "MEMO_EMOTION_MODEL": MODELS.emotion_model,
    "MEMO_VOCAL_SEPARATOR": MODELS.vocal_separator,
    "MEMO_FACE_ANALYSIS": MODELS.face_analysis,
    "MEMO_AUDIO": AudioFeatures(torch.zeros(32, 2, 64), Fraction(30), 32, 16),
    "MEMO_EMOTION": constant_emotion(0),
    "MEMO_FACE": Face(torch.zeros(1, 512), None, 0.0),
    "MEMO_CROP": Crop(0, 0, 64, (64, 64)),
    "MEMO_STATE": VideoState((torch.zeros(16, 4, 8, 8),), torch.zeros(16, 4, 8, 8), 16, 1, torch.Generator().get_state(), "model"),
    "AUDIO": {"waveform": torch.zeros(1, 1, 16000), "sample_rate": 16000},
    "IMAGE": torch.zeros(1, 64, 64, 3),
    "SAMPLER": Thing(),
    "SIGMAS": torch.tensor([1.0, 0.0]),
    "VAE": MODELS.vae,
}
"""By socket, what is let through; what a node does with it is another matter."""


SMALL = {"width": 64, "height": 64, "resolution": 64, "steps": 1, "clips": 1}
"""For what is let through after all."""


def good_inputs(node) -> dict:
    inputs = node.GET_SCHEMA().inputs
    return {given.id: GOOD[given.get_io_type()] if given.get_io_type() in GOOD else default(given) for given in inputs if not given.optional}


def default(widget):
    if widget.id in SMALL:
        return SMALL[widget.id]
    return widget.default if widget.default is not None else next(iter(widget.options), "")  # no LoRA is there


def said(node, values: dict) -> str:
    """The sentence of an error of the pack's own, the kind of any other."""
    if node.GET_SCHEMA().is_input_list:
        values = {name: [value] for name, value in values.items()}
    try:
        node.execute(**values)
    except MemoError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refused_inputs() -> dict[str, str]:
    return {name: said(BY_NAME[node], good_inputs(BY_NAME[node]) | {given: make(torch)}) for name, (node, given, make, _) in INPUTS.items()}


def let_through() -> list[str]:
    """Inputs that accept something that is nothing for any of them."""
    lax = []
    for node in NODES:
        for given in node.GET_SCHEMA().inputs:
            for value in (object(), {"a": 1}, [1], b"", float("-inf")):
                try:
                    checks.check_value(node, given, value)
                    lax.append(f"{node.__name__}.{given.id}: {value!r}")
                except InputError as error:
                    assert re.match(rf"{given.id}: (\w+: )?expected ", str(error)), error
            if not given.optional and not said(node, good_inputs(node) | {given.id: None}).startswith(f"{given.id}: expected "):
                lax.append(f"{node.__name__}.{given.id}: None")
    return lax


def crafted() -> dict[str, str]:
    """By node, input and what is wrong with the value: what was said, where that does not begin with the name of the input."""
    wrong = {}
    for node in NODES:
        if node.__name__ == "MemoLoadLora":  # there is no LoRA to load here, which is what it says first
            continue
        for given in node.GET_SCHEMA().inputs:
            kind = given.get_io_type()
            bad = dict(of_socket(kind, GOOD[kind])) if kind in GOOD else OF_NUMBERS if kind in ("INT", "FLOAT") else {}
            inputs = good_inputs(node) | ({"emotion_source": "vocals"} if given.id == "vocals" else {})
            if given.id in ("photo", "crop"):  # of which one is not taken without the other
                inputs |= {"photo": GOOD["IMAGE"], "crop": GOOD["MEMO_CROP"]}
            for what, value in bad.items():
                answer = said(node, inputs | {given.id: value})
                if not answer.startswith((f"{given.id}: ", f"{given.id} ")):
                    wrong[f"{node.__name__}.{given.id} {what}"] = answer
    return wrong


def otherwise_kept() -> dict[str, str]:
    """By node, input and how a picture or a sound is kept: what was said or made, where it is not what the plain one makes."""
    wrong, steps = {}, torch.arange(64)
    grey = ((steps[:, None] * steps) % 64 / 64)[None, :, :, None].repeat(1, 1, 1, 3)
    sound = (torch.arange(16000) % 64 / 64 - 0.5).repeat(1, 2, 1)
    values = {"IMAGE": (grey, lambda tensor: tensor), "AUDIO": (sound, lambda tensor: {"waveform": tensor, "sample_rate": 16000})}
    for node in NODES:
        inputs, always = node.GET_SCHEMA().inputs, {"allow_no_face": True, "box_size": 64, "emotion_source": "vocals", "crop": GOOD["MEMO_CROP"]}
        plain = good_inputs(node) | {given.id: always[given.id] for given in inputs if given.id in always}
        there = {given.id: values[given.get_io_type()] for given in inputs if given.get_io_type() in values}
        plain |= {name: wrapped(tensor) for name, (tensor, wrapped) in there.items()}
        for name, (tensor, wrapped) in there.items():
            expected = outcome(node, plain)
            if not expected.startswith("["):
                wrong[f"{node.__name__}.{name}"] = expected
            for what, kept in alike(tensor).items():
                if (made := outcome(node, plain | {name: wrapped(kept)})) != expected:
                    wrong[f"{node.__name__}.{name} {what}"] = made[:500]
    return wrong


def outcome(node, values: dict) -> str:
    """The kind of an error with its sentence, or a digest of all outputs; of nodes that sample, of what they are about to."""
    try:
        if issubclass(node, ListNode):
            return repr(flat(node.prepare(Item(0, 1), **values)))
        if node.GET_SCHEMA().is_input_list:
            values = {name: [value] for name, value in values.items()}
        return repr(flat(node.execute(**values).args))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def flat(value) -> object:
    if isinstance(value, torch.Tensor):
        return [list(value.shape), hashlib.sha256(value.detach().float().contiguous().numpy().tobytes()).hexdigest()]
    if isinstance(value, Sampling):
        return flat(value.inputs())
    if dataclasses.is_dataclass(value):
        return [flat(getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare]
    if isinstance(value, dict):
        return {name: flat(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [flat(held) for held in value]
    if isinstance(value, InputImpl.VideoFromFile):
        return hashlib.sha256(Path(value.get_stream_source()).read_bytes()).hexdigest()
    return value if isinstance(value, str | int | float | None) else type(value).__name__


def given_nothing() -> dict[str, str]:
    """By node, what it says when links give nothing to all of its optional inputs."""
    answers = {node.__name__: said(node, good_inputs(node) | {given.id: None for given in optional(node)}) for node in NODES if optional(node)}
    shutil.rmtree(Path(base, "output"))
    return answers


def optional(node) -> list:
    return [given for given in node.GET_SCHEMA().inputs if given.optional]


def name_widgets() -> list[str]:
    """Widgets whose value is a text that a prompt can set to anything: those a node checks by itself, and free text."""
    found = []
    for node in NODES:
        inputs = node.GET_SCHEMA().inputs
        found += [f"{node.__name__}.{given.id}" for given in inputs if checks.checks_itself(node, given) or given.get_io_type() == "STRING"]
    return found


def load(node: str, given: str, name: str, download: bool = False) -> list[str]:
    """What validation and the run of a loader say to a name."""
    names = {widget: good for (loader, widget), good in NAMES.items() if loader == node} | {given: name}
    kind = BY_NAME[node]
    return [str(kind.validate_inputs(**names)), said(kind, names | {"download": download})]


def escapes() -> dict[str, list[str]]:
    """By widget and name: what validation and two runs said, then what was opened outside."""
    opened, found = [], {}

    def audit(event: str, arguments: tuple) -> None:
        if event in ("open", "os.scandir", "os.listdir") and "/outside/" in f"{arguments[0]}/":
            opened.append(f"{event} {arguments[0]}")

    (Path(base) / "models" / "memo" / "linked").unlink()  # looked at above
    sys.addaudithook(audit)
    for (node, given), good in NAMES.items():
        for name in widget_names(good, outside):
            opened.clear()
            found[f"{node}.{given} {name!r}"] = [*load(node, given, name), load(node, given, name, download=True)[1], *opened]
    return found


def prefixes() -> dict[str, str]:
    output = Path(base, "output")
    output.mkdir(exist_ok=True)
    (output / "linked").symlink_to(outside, target_is_directory=True)
    (output / "file").touch()
    found = {}
    for prefix in PREFIXES:
        try:
            comfy_output.output_file(prefix, ".mp4", 512, 512)
            found[prefix] = "nothing"
        except InputError as error:
            found[prefix] = str(error)
    return found


print(
    json.dumps(
        {
            "inputs": refused_inputs(),
            "crafted": crafted(),
            "otherwise_kept": otherwise_kept(),
            "given_nothing": given_nothing(),
            "let_through": let_through(),
            "widgets": name_widgets(),
            "loaded": {f"{node}.{given}": load(node, given, good) for (node, given), good in NAMES.items()},
            "linked": load("MemoLoadModel", "model", "linked"),
            "escapes": escapes(),
            "prefixes": prefixes(),
        }
    )
)
