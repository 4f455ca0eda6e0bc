"""The workflow files and the blueprint in the real front end: dropped onto the canvas, run with the Run button, and seen to be whole.

MEMO_OTHER_PACKS names a folder with the packs of other people that some workflows need, each in a folder of its own; what those
packs need must be importable.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.graphs import OF_OTHER_PACKS, SMALL, WORKFLOWS, write_portraits, write_wav
from tools.comfyui_server import ServerError
from tools.derived import stage
from tools.derived.workflows import APP, look_at_all
from tools.front_end import FrontEnd
from tools.tiny_picture_models import write_tiny_interpolator, write_tiny_upscaler

ROOT = Path(__file__).resolve().parents[2]
TALKING_PORTRAIT = ROOT / "workflows" / "talking_portrait.json"
SCHEMAS = json.loads((ROOT / "tests" / "node_schemas.json").read_text(encoding="utf-8"))
ALL_NODES = ROOT / "workflows" / "talking_portrait_all_nodes.json"
ELSEWHERE = {"record_yourself", "text_to_portrait"}
"""Workflows of test_chained_workflows.py."""
CORE_ONLY = [file for file in WORKFLOWS if file.stem not in {*OF_OTHER_PACKS, *ELSEWHERE} and not file.name.endswith(APP)]
OTHERS = [file for file in WORKFLOWS if file.stem in OF_OTHER_PACKS]
PACKS = os.environ.get("MEMO_OTHER_PACKS")

pytestmark = pytest.mark.browser

SOUND, SECONDS = "half_a_second.wav", 0.5
TINY = {
    "LoadImage": {"image": "portrait.jpg"},
    "LoadAudio": {"audio": SOUND},
    "MemoLoadVAE": {"vae": "sd-vae-ft-mse"},
    "MemoLoadAll": {"vae": "sd-vae-ft-mse"},
    "MemoSampler": {"width": 64, "height": 64, "steps": 1},
    "MemoSampleToFile": {"width": 64, "height": 64, "steps": 1},
    "MemoTalkingPortrait": {"resolution": 64, "steps": 1},
    "MemoCropPortrait": {"size": 64, "index": 0},
    "TrimAudioDuration": {"start_index": 0, "duration": SECONDS},
    "UpscaleModelLoader": SMALL["UpscaleModelLoader"],
    "FrameInterpolationModelLoader": SMALL["FrameInterpolationModelLoader"],
}
"""The tiny checkpoint under the published name, pictures as small as they come, and one face in the photo."""
SHEETS = "node => ['MemoSampler', 'MemoTalkingPortrait'].includes(node.type)"
SHEETS_SHOWN = f"""app.graph.nodes.filter({SHEETS}).every(node =>
    [...(node.imgs ?? []), ...document.querySelectorAll(`[data-node-id="${{node.id}}"] img`)].some(image => image.src.includes("/view?")))"""
LIVE = "[...document.querySelectorAll('[data-node-id] img')].map(image => image.src).filter(source => source.startsWith('blob:'))"
"""Pictures on nodes that no file holds, as Nodes 2.0 draws them."""
LOOK_AT_VIDEO = """(() => {
    app.canvas.ds.scale = 0.7
    app.canvas.centerOnNode(app.graph.nodes.find(({ type }) => ["SaveVideo", "MemoSampleToFile", "MemoPasteBackToFile"].includes(type)))
})()"""
SIZES = {"upscale": [128, 128], "crop_and_paste_back": [512, 512], "two_speakers_one_photo": [512, 512]}
"""Of videos that are not as small as that."""

# what is closer to its neighbour than that, or to the border of its group, once all sizes are known
CROWDED = """((gap, border) => {
    const edges = ({ boundingRect: [x, y, width, height] }) => [x, y, x + width, y + height]
    const named = node => `${node.title} (${edges(node).map(Math.round)})`
    const apart = ([left, top, right, bottom], [otherLeft, otherTop, otherRight, otherBottom]) =>
        left - gap >= otherRight || otherLeft - gap >= right || top - gap >= otherBottom || otherTop - gap >= bottom
    const within = ([left, top, right, bottom], [outerLeft, outerTop, outerRight, outerBottom]) =>
        left - border >= outerLeft && top - border >= outerTop && right + border <= outerRight && bottom + border <= outerBottom
    const { nodes, groups } = app.graph
    const pairs = nodes.flatMap((node, i) => nodes.slice(i + 1).map(other => [node, other]))
    return [
        ...pairs.filter(([node, other]) => !apart(edges(node), edges(other))).map(pair => pair.map(named).join(" and ")),
        ...nodes.filter(node => node.type !== "MarkdownNote" && !groups.some(group => within(edges(node), edges(group)))).map(named),
    ]
})(12, 10)"""


@pytest.fixture(scope="module")
def base(base):
    write_tiny_upscaler(base / "models" / "upscale_models" / "tiny.safetensors")
    write_tiny_interpolator(base / "models" / "frame_interpolation" / "tiny.safetensors")
    write_portraits(base / "input", {"anna": ROOT / "assets" / "portrait.jpg"})
    for named in (*(f"models/{model}" for model in stage.NAMED), "input/portrait_2.jpg"):
        (base / named).parent.mkdir(exist_ok=True)
        (base / named).touch()  # or the front end tells that it is missing
    write_wav(base / "input" / SOUND, int(SECONDS * 24000), 24000)
    if PACKS:
        shutil.copytree(PACKS, base / "custom_nodes", ignore=shutil.ignore_patterns(".git"))
    return base


def exported(file: Path) -> dict:
    return json.loads((file.parent / "api" / file.name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", CORE_ONLY, ids=lambda file: file.stem)
def test_dropped_workflow_loads_complete_and_makes_a_video_that_plays(page, file):
    page.drop_workflow(file)
    page.wait_for(f"document.body.innerText.includes('{file.stem}')")
    types = [node["type"] for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]]
    assert page.evaluate("app.graph.nodes.length") == len(types)
    assert page.unknown_nodes() == []
    assert page.prompt() == exported(file)
    assert page.complaints() == 0
    page.set_widgets(TINY)
    page.run()
    page.evaluate(LOOK_AT_VIDEO)  # whose element the front end makes when it is drawn, and not too small
    page.wait_for("document.querySelector('video')?.readyState > 0")
    size, seconds = page.evaluate("(video => [[video.videoWidth, video.videoHeight], video.duration])(document.querySelector('video'))")
    assert size == SIZES.get(file.stem, [64, 64])
    assert seconds == pytest.approx(SECONDS * types.count("LoadAudio"), abs=1 / 30)
    assert page.evaluate("Object.keys(app.nodePreviewImages)") == [], "a live preview would hide what the node shows in the end"
    look_at_all(page)  # a sheet is there, and a node measured, when it is drawn
    page.wait_for(SHEETS_SHOWN, timeout=20)
    assert page.evaluate(LIVE) == [], "nor may one be drawn"
    assert page.evaluate(CROWDED) == []
    assert page.own_errors() == []


def test_four_clicks_from_the_dialog_of_templates_to_a_video(page, clicks):
    """By somebody who has the published models; test_first_video.py tells of those who have others, or none."""
    page.open_template("talking_portrait")
    page.set_widgets(TINY)  # so that it does not take long; and the tiny VAE is a folder, where the published one is a file
    page.run()
    page.evaluate(LOOK_AT_VIDEO)
    page.wait_for("document.querySelector('video')?.readyState > 0")
    assert len(clicks) == 4
    assert page.own_errors() == []


def test_what_a_node_had_shown_is_back_in_a_page_that_has_not_seen_it(chromium, server, page, tmp_path):
    """After F5, that is, which asks whether to leave."""
    page.drop_workflow(TALKING_PORTRAIT)
    page.set_widgets(TINY)
    page.run()
    page.wait_for(SHEETS_SHOWN, timeout=20)
    saved = page.evaluate("JSON.stringify(app.graph.serialize())")
    with FrontEnd(chromium, tmp_path / "another", server.url) as another:
        another.evaluate(f"app.loadGraphData({saved})")
        assert not another.evaluate(SHEETS_SHOWN)
        another.run()  # in which nothing is computed
        another.wait_for(SHEETS_SHOWN, timeout=20)
        assert another.own_errors() == []


def test_a_clip_that_is_done_plays_while_the_next_one_runs(page):
    """The front end makes a blob of each picture that ComfyUI sends, and calls it a PNG: a browser has to see for itself what it is."""
    page.evaluate("""(() => {
        window.sent = []
        app.api.addEventListener("b_preview_with_metadata", ({ detail }) => window.sent.push(detail.blob))
    })()""")
    page.drop_workflow(TALKING_PORTRAIT)
    page.set_widgets(TINY)
    page.run()
    drawn = page.evaluate("""Promise.all(window.sent.map(async blob => {
        const image = new Image()
        image.src = URL.createObjectURL(blob)
        await image.decode()
        return [image.naturalWidth, new TextDecoder().decode((await blob.arrayBuffer()).slice(8, 12))]
    }))""")
    assert [64, "WEBP"] in drawn and all(width in (64, 128) for width, kind in drawn if kind == "WEBP")
    assert page.own_errors() == []


def test_our_sockets_have_colours_of_their_own_in_every_theme(page):
    types = {given["type"] for node in SCHEMAS.values() for given in [*node["inputs"], *node["outputs"]] if given["type"].startswith("MEMO_")}
    page.add("MemoTalkingPortrait")
    for palette in ("light", "dark"):
        page.set("Comfy.ColorPalette", palette)
        page.wait_for(f"{json.dumps(sorted(types))}.every(type => LGraphCanvas.link_type_colors[type])", timeout=10)
        for colours in (
            "LGraphCanvas.link_type_colors[type]",
            "app.canvas.default_connection_color_byType[type]",
            "document.documentElement.style.getPropertyValue(`--color-datatype-${type}`)",
        ):
            assert len(set(page.evaluate(f"{json.dumps(sorted(types))}.map(type => {colours})"))) == len(types)


def test_notes_are_written_as_large_as_they_say(page):
    page.drop_workflow(TALKING_PORTRAIT)
    page.evaluate("(() => { const own = LiteGraph.createNode('MarkdownNote'); app.graph.add(own); own.widgets[0].value = 'of the user' })()")
    text_size = "(words => parseFloat(getComputedStyle([...document.querySelectorAll('p')].find(p => p.innerText.startsWith(words))).fontSize))"
    page.wait_for("[...document.querySelectorAll('p')].some(p => p.innerText.startsWith('of the user'))")
    assert page.evaluate(f"{text_size}('Have none yet?')") == 12
    assert page.evaluate(f"{text_size}('of the user')") == 10
    assert page.own_errors() == []


@pytest.mark.skipif(not PACKS, reason="MEMO_OTHER_PACKS names no folder with other people's packs")
@pytest.mark.parametrize("file", OTHERS, ids=lambda file: file.stem)
def test_workflow_with_another_pack_loads_complete_and_is_valid(page, server, file):
    page.drop_workflow(file)
    assert page.unknown_nodes() == []
    assert page.prompt() == exported(file)
    assert page.complaints() == 0
    page.set_widgets(TINY)
    try:
        server.run(page.prompt())
    except ServerError as error:  # an empty file stands for CodeFormer's weights, and Chatterbox loads none here: so that far it goes
        assert any(kind in str(error) for kind in ("FaceRestoreModelLoader", "MemoTalkingPortrait")) and "400" not in str(error)
    assert page.own_errors() == []


def test_missing_node_would_be_seen(page, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(ALL_NODES.read_text(encoding="utf-8").replace('"MemoEmbedFace"', '"MemoNoSuchNode"'), encoding="utf-8")
    page.drop_workflow(broken)
    assert page.complaints() == 2
    assert page.unknown_nodes() == ["MemoNoSuchNode"]


def test_blueprint_is_found_by_its_name_and_runs(page):
    page.search_node("MEMO Talking Portrait", "Subgraph Blueprints")
    page.wait_for("app.graph.nodes.length === 1 && app.graph.nodes[0].isSubgraphNode()")
    page.evaluate("""(() => {
        const [box] = app.graph.nodes
        const [image, sound, save] = ["LoadImage", "LoadAudio", "SaveVideo"].map(type => {
            const node = LiteGraph.createNode(type)
            app.graph.add(node)
            return node
        })
        image.connect(0, box, box.findInputSlot("image"))
        sound.connect(0, box, box.findInputSlot("audio"))
        box.connect(0, save, 0)
    })()""")
    [box] = page.evaluate("app.graph.nodes.filter(node => node.isSubgraphNode?.()).map(node => node.type)")
    page.set_widgets({kind: TINY[kind] for kind in ("LoadImage", "LoadAudio")} | {box: {"width": 64, "height": 64, "steps": 1}})
    inside = {"MemoLoadVAE": TINY["MemoLoadVAE"]}
    page.set_widgets(inside, "app.graph.nodes.find(node => node.isSubgraphNode?.()).subgraph")
    assert page.complaints() == 0
    page.run()
    page.wait_for("document.querySelector('video')?.readyState > 0")
    assert page.evaluate("document.querySelector('video').videoWidth") == 64
    assert page.own_errors() == []
