"""How the workflow files are laid out: what of them is seen at once, that nothing overlaps, and where links run."""

import json
import math
from itertools import combinations, pairwise
from operator import ge
from pathlib import Path

import pytest

from tests.helpers import ui_to_api
from tests.helpers.graphs import WORKFLOWS

BLUEPRINT = Path(__file__).resolve().parents[2] / "subgraphs" / "MEMO Talking Portrait.json"
TITLE, COLLAPSED = 30, 225
"""Of a node, above its position, and how wide it is in Nodes 2.0 when nothing but its title is shown."""
GROWS, LEAST_WIDTH = 36, 225
"""How much taller a node may be in Nodes 2.0 than on the canvas, which saved it, and how wide it is there at least."""
GROWS_NOT = {"LoadImage", "LoadAudio", "RecordAudio", *ui_to_api.NOTES}
AFTER_A_RUN = {
    "MemoCropPortrait": 420,
    "MemoDetectEmotion": 360,
    "MemoEmotionTimeline": 555,
    "MemoLoadAll": 402,
    "MemoLoadModel": 170,
    "MemoPasteBackToFile": 575,
    "MemoSampleToFile": 960,
    "MemoSampler": 840,
    "MemoTalkingPortrait": 785,
    "PreviewAudio": 105,
    "SaveVideo": 410,
}
"""How tall a node may be with what it shows then, without its title."""
GAP, BORDER = 10, 8
"""Between two nodes, and between a node and the border of its group."""
WINDOW, TOOLBARS, LEAST_TEXT = (1600, 900), (60, 90), 9
"""Of a browser, what its front end takes at the left and above, and how small its text may be drawn, in pixels."""
NODE_TEXT = 12
"""How large the front end writes on nodes; on notes it is 10, or what they say themselves (web/notes.js)."""
SLOT, FIRST_SLOT = 20, 14
"""Between two slots of a node, and from its position to the first, in pixels."""
STEPS, NEAR = 40, 3
"""Points of a link that are looked at, and how far into its own nodes it may reach."""

each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)


def load(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def room_of(node: dict) -> tuple[float, float, float, float]:
    """The left, upper, right and lower end of what a node needs, on the canvas and in Nodes 2.0, before and after a run."""
    (left, top), (width, height) = node["pos"], node["size"]
    if node["flags"].get("collapsed"):
        return left, top - TITLE, left + COLLAPSED, top
    taller = height if node["type"] in GROWS_NOT else height + GROWS if node["type"] not in AFTER_A_RUN else max(height, AFTER_A_RUN[node["type"]])
    return left, top - TITLE, left + max(width, LEAST_WIDTH), top + taller


def apart(one: tuple, other: tuple) -> bool:
    return any(one[side + 2] + GAP <= other[side] or other[side + 2] + GAP <= one[side] for side in (0, 1))


@pytest.mark.parametrize("file", [*WORKFLOWS, BLUEPRINT], ids=lambda file: file.stem)
def test_nodes_do_not_overlap(file):
    graph = load(file) if file in WORKFLOWS else load(file)["definitions"]["subgraphs"][0]
    rooms = [(node["type"], room_of(node)) for node in graph["nodes"]]
    assert [(one, other) for (one, first), (other, second) in combinations(rooms, 2) if not apart(first, second)] == []


@each_workflow
def test_groups_hold_their_nodes(file):
    workflow = load(file)
    groups = [(left, top, left + width, top + height) for left, top, width, height in (group["bounding"] for group in workflow["groups"])]
    assert all(apart(one, other) for one, other in combinations(groups, 2))
    for node in workflow["nodes"]:
        left, top, right, bottom = room_of(node)
        edges = (left - BORDER, top - BORDER, -right - BORDER, -bottom - BORDER)
        held = any(all(map(ge, edges, (*group[:2], -group[2], -group[3]))) for group in groups)
        assert held or node["type"] in ui_to_api.NOTES, node["type"]


@each_workflow
def test_is_readable_at_once(file):
    """As it is stored it fits into a window, and the front end writes no letters on what is too small."""
    workflow = load(file)
    rooms = [(*node["pos"], *map(sum, zip(node["pos"], node["size"], strict=True))) for node in workflow["nodes"]]
    rooms = [(left, top - TITLE, right, bottom) for left, top, right, bottom in rooms]
    rooms += [(left, top, left + width, top + height) for left, top, width, height in (group["bounding"] for group in workflow["groups"])]
    left, top, right, bottom = (choose(room[side] for room in rooms) for side, choose in enumerate((min, min, max, max)))
    scale, (x, y) = workflow["extra"]["ds"]["scale"], workflow["extra"]["ds"]["offset"]
    [note] = [node for node in workflow["nodes"] if node["type"] in ui_to_api.NOTES]
    assert scale * min(NODE_TEXT, note["properties"]["memo_text_size"]) >= LEAST_TEXT
    assert TOOLBARS[0] <= (left + x) * scale and (right + x) * scale <= WINDOW[0]
    assert TOOLBARS[1] <= (top + y) * scale and (bottom + y) * scale <= WINDOW[1]


@each_workflow
def test_groups_end_below_their_last_node(file):
    workflow = load(file)
    for group in workflow["groups"]:
        left, top, width, height = group["bounding"]
        bottoms = [room_of(node)[3] for node in workflow["nodes"] if 0 <= node["pos"][0] - left <= width and 0 <= node["pos"][1] - top <= height]
        assert max(bottoms) + BORDER <= top + height, group["title"]


@each_workflow
def test_links_cross_no_node(file):
    workflow = load(file)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link in workflow["links"]:
        points = points_of(link, workflow, nodes)
        for node in nodes.values():
            inset = NEAR if node["id"] in (link[1], link[3]) else 0
            left, top, right, bottom = room_of(node)
            inside = [(x, y) for x, y in points if left + inset < x < right - inset and top + inset < y < bottom - inset]
            allowed_inside = STEPS // 10 if inset else 0  # the two ends
            assert len(inside) <= allowed_inside, (nodes[link[1]]["type"], nodes[link[3]]["type"], node["type"], inside[0])


def points_of(link: list, workflow: dict, nodes: dict) -> list[tuple[float, float]]:
    """Where a link runs: a curve from slot to slot, or about straight from reroute to reroute."""
    number, origin, slot, target, input_slot, _ = link
    extra, start, end = workflow["extra"], nodes[origin], nodes[target]
    sockets = [given for given in end["inputs"][:input_slot] if "widget" not in given]
    if "widget" in end["inputs"][input_slot]:
        sockets = [{}] * max(sum("widget" not in given for given in end["inputs"]), len(end["outputs"]))
    reroutes = {reroute["id"]: reroute for reroute in extra.get("reroutes", ())}
    via, last = [], next((extension["parentId"] for extension in extra.get("linkExtensions", ()) if extension["id"] == number), None)
    while last is not None:
        via.append(tuple(reroutes[last]["pos"]))
        last = reroutes[last].get("parentId")
    first, last = FIRST_SLOT + SLOT * slot, FIRST_SLOT + SLOT * len(sockets)
    if start["flags"].get("collapsed"):
        first = -TITLE / 2
    if end["flags"].get("collapsed"):
        last = -TITLE / 2
    places = [(room_of(start)[2], start["pos"][1] + first), *reversed(via), (end["pos"][0], end["pos"][1] + last)]
    pull = math.dist(*places) / 4 if len(places) == 2 else 0
    return [between(one, other, pull, step / STEPS) for one, other in pairwise(places) for step in range(STEPS + 1)]


def between(one: tuple, other: tuple, pull: float, t: float) -> tuple[float, float]:
    """A point of the cubic that leaves to the right, with that pull, and arrives from the left; a straight line without pull."""
    weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
    if not pull:
        return tuple(a + (b - a) * t for a, b in zip(one, other, strict=True))
    x = sum(weight * place for weight, place in zip(weights, (one[0], one[0] + pull, other[0] - pull, other[0]), strict=True))
    y = sum(weight * place for weight, place in zip(weights, (one[1], one[1], other[1], other[1]), strict=True))
    return x, y
