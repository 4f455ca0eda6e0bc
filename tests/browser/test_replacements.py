"""Workflows of ComfyUI-IF_MemoAvatar in the real front end: its two nodes are replaced, cables and values and all.

MEMO_IF_WORKFLOWS names a folder with that pack's own workflow files, to be opened as well; none of them is kept here.
"""

import json
import os
from pathlib import Path

import pytest

from tools.front_end import FrontEnd

pytestmark = pytest.mark.browser

LOADER, AVATAR, MISSING = "IF_MemoCheckpointLoader", "IF_MemoAvatar", "NodeOfAThirdPack"
SOCKETS = (
    ("reference_net", "MODEL"),
    ("diffusion_net", "MODEL"),
    ("vae", "VAE"),
    ("image_proj", "IMAGE_PROJ"),
    ("audio_proj", "AUDIO_PROJ"),
    ("emotion_classifier", "EMOTION_CLASSIFIER"),
)
OF_THE_PACK = sorted(Path(os.environ["MEMO_IF_WORKFLOWS"]).glob("*.json")) if "MEMO_IF_WORKFLOWS" in os.environ else []

PRESS = """(text => {
    const button = [...document.querySelectorAll("button")].find(button => button.innerText.trim() === text)
    button?.click()
    return !!button
})"""
NODES = """Object.fromEntries(app.graph.nodes.map(node => [node.id, {
    type: node.type,
    widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value])),
    cables: Object.fromEntries((node.inputs ?? []).filter(input => input.link != null).map(input => {
        const link = app.graph.links.get(input.link)
        return [input.name, [String(link.origin_id), link.origin_slot]]
    })),
}]))"""


def a_workflow() -> dict:
    """What the file of such a workflow holds: a portrait, a voice, the two nodes, and one of a third pack at each output."""
    links = [[10 + slot, 1, slot, 2, 2 + slot, kind] for slot, (_, kind) in enumerate(SOCKETS)]
    links += [[20, 3, 0, 2, 0, "IMAGE"], [21, 4, 0, 2, 1, "AUDIO"], [22, 2, 0, 5, 0, "STRING"], [23, 2, 1, 6, 0, "STRING"]]
    of_avatar = [("image", "IMAGE", 20), ("audio", "AUDIO", 21), *((name, kind, 10 + slot) for slot, (name, kind) in enumerate(SOCKETS))]

    def node(number, kind, inputs=(), outputs=(), values=()):
        return {
            "id": number,
            "type": kind,
            "pos": [100 + 350 * (number % 3), 100 + 300 * (number // 3)],
            "size": [300, 100],
            "flags": {},
            "order": number,
            "mode": 0,
            "inputs": [{"name": name, "type": type, "link": link} for name, type, link in inputs],
            "outputs": [{"name": name, "type": type, "links": links} for name, type, links in outputs],
            "properties": {"Node name for S&R": kind},
            "widgets_values": list(values),
        }

    nodes = [
        node(1, LOADER, outputs=[(name, kind, [10 + slot]) for slot, (name, kind) in enumerate(SOCKETS)], values=[True]),
        node(2, AVATAR, of_avatar, [("video_path", "STRING", [22]), ("status", "STRING", [23])], [384, 16, 25, 7, 2.5, 2047, "fixed", "memo_video"]),
        node(3, "LoadImage", outputs=[("IMAGE", "IMAGE", [20]), ("MASK", "MASK", None)], values=["portrait.jpg", "image"]),
        node(4, "LoadAudio", outputs=[("AUDIO", "AUDIO", [21])], values=["speech.wav", None, None]),
        node(5, MISSING, [("video", "STRING", 22)]),
        node(6, MISSING, [("text", "STRING", 23)]),
    ]
    return {"last_node_id": 6, "last_link_id": 23, "nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}


def open_and_replace(page: FrontEnd, file: Path, button: str = "Replace All", times: int = 1) -> None:
    page.drop_workflow(file)
    page.press("[data-testid=error-overlay-see-errors]")
    for _ in range(times):
        page.wait_for(f"{PRESS}('{button}')")
        page.evaluate("new Promise(done => setTimeout(done, 500))")  # in which the loose cables go
    page.wait_for("['MemoLoadAll', 'MemoTalkingPortrait'].every(type => app.graph.nodes.some(node => node.type === type))")


def hanging(page: FrontEnd) -> list:
    """Links that a node at one of their ends does not know."""
    return page.evaluate("""[...app.graph.links.values()].filter(link =>
        !app.graph.getNodeById(link.origin_id).outputs[link.origin_slot]?.links?.includes(link.id) ||
        app.graph.getNodeById(link.target_id).inputs[link.target_slot]?.link !== link.id).map(link => link.id)""")


@pytest.mark.parametrize(("button", "times"), [("Replace All", 1), ("Replace Node", 2)])
def test_both_nodes_are_replaced_with_what_was_set_and_wired(page, tmp_path, button, times):
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(a_workflow()), encoding="utf-8")
    open_and_replace(page, file, button, times)
    nodes = page.evaluate(NODES)
    assert [nodes[number]["type"] for number in "12"] == ["MemoLoadAll", "MemoTalkingPortrait"]
    assert nodes["2"]["cables"] == {"models": ["1", 0], "image": ["3", 0], "audio": ["4", 0]}
    expected = {"resolution": 384, "fps": 25, "steps": 7, "guidance_scale": 2.5, "seed": 2047}
    assert nodes["2"]["widgets"].items() >= expected.items()
    assert nodes["1"]["widgets"]["model"] == "memo" and nodes["1"]["widgets"]["vae"] == "sd-vae-ft-mse"
    assert nodes["5"]["cables"] == nodes["6"]["cables"] == {}, "a path is no picture"
    assert hanging(page) == []
    assert page.unknown_nodes() == [MISSING, MISSING]
    assert page.evaluate(f"document.body.innerText.includes('{MISSING}')"), "what is missing still is named"
    prompt = page.prompt()
    given = {"models": ["1", 0], "image": ["3", 0], "audio": ["4", 0], **expected}
    assert prompt["2"]["inputs"] == given | {"quality": "as set", "first_2_seconds": False, "crop_face": True, "allow_no_face": False}
    page.evaluate("app.loadGraphData(app.graph.serialize())")
    page.wait_for("app.graph.nodes.some(node => node.type === 'MemoTalkingPortrait')")
    assert page.evaluate(NODES)["2"] == nodes["2"] and hanging(page) == []
    looked_up = "api.comfy.org"  # where the front end asks for packs that have the missing nodes
    assert [error for error in page.own_errors() if looked_up not in error] == []


@pytest.mark.skipif(not OF_THE_PACK, reason="MEMO_IF_WORKFLOWS names no folder with workflow files of that pack")
@pytest.mark.parametrize("file", OF_THE_PACK, ids=lambda file: file.stem)
def test_the_packs_own_workflows_open(page, file):
    saved = {node["id"]: node for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]}
    known = set(page.evaluate("Object.keys(LiteGraph.registered_node_types)"))
    avatar, loader = (next(number for number, node in saved.items() if node["type"] == kind) for kind in (AVATAR, LOADER))
    open_and_replace(page, file)
    nodes = page.evaluate(NODES)
    assert nodes[str(loader)]["type"] == "MemoLoadAll" and nodes[str(avatar)]["type"] == "MemoTalkingPortrait"
    assert set(nodes[str(avatar)]["cables"]) == {"models", "image", "audio"}
    values = saved[avatar]["widgets_values"]
    assert [nodes[str(avatar)]["widgets"][name] for name in ("resolution", "fps", "steps", "guidance_scale", "seed")] == [*values[:1], *values[2:6]]
    others = {node["type"] for node in saved.values()} - known - {AVATAR, LOADER}
    assert set(page.unknown_nodes()) == others
    panel = page.evaluate("document.body.innerText")
    assert others and [kind for kind in others if kind not in panel] == []
    assert hanging(page) == []
