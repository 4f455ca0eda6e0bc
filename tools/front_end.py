"""ComfyUI's front end with this pack, in a Chromium without a window: files dropped on it, its graph read, set and run."""

import base64
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from tools.chromium import Chromium, PageError, find_chromium
from tools.comfyui_server import PACK, ComfyUIServer
from tools.environment import find_comfyui

COMPLAINTS = "[data-testid=error-overlay], [data-testid=subgraph-breadcrumb-missing-nodes-icon]"
_START_TIMEOUT = 240
_READY = "!!window.app?.extensionManager && 'MemoSampler' in (window.LiteGraph?.registered_node_types ?? {}) && app.graph?.nodes.length > 0"
# Both wait, by giving null, for the overlay to go that covers everything while a workflow loads.
_TITLE_OF = """(type => {
    const [x, y] = app.graph.nodes.find(node => node.type === type).pos
    const [left, top] = app.canvas.ds.convertOffsetToCanvas([x + 60, y - 15])
    const canvas = document.querySelector("#graph-canvas"), box = canvas.getBoundingClientRect()
    const found = document.elementFromPoint(box.x + left, box.y + top) // in Nodes 2.0 a node is an element of its own
    return found === canvas || found?.closest("[data-node-id]") ? [box.x + left, box.y + top] : null
})"""
_MIDDLE_OF = """(selector => {
    const element = document.querySelector(selector), box = element?.getBoundingClientRect()
    const middle = box && [box.x + box.width / 2, box.y + box.height / 2]
    return middle && element.contains(document.elementFromPoint(...middle)) ? middle : null
})"""
_SET_WIDGETS = """((graph, inputs) => {
    for (const node of graph.nodes)
        for (const [name, value] of Object.entries(inputs[node.type] ?? {})) {
            const widget = node.widgets.find(widget => widget.name === name)
            widget.value = value
            widget.callback?.(value, app.canvas, node)
        }
})"""
_ADD = """((type, left, top, width) => {
    const node = LiteGraph.createNode(type)
    node.pos = [left, top]
    node.setSize([Math.max(width, node.size[0]), node.size[1]])
    app.graph.add(node)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    app.canvas.setDirty(true, true)
})"""
# Two frames later it is drawn.
_BOX_OF = """(type => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
    const [x, y, width, height] = app.graph.nodes.find(node => node.type === type).boundingRect, { scale } = app.canvas.ds
    const [left, top] = app.canvas.ds.convertOffsetToCanvas([x, y]), canvas = document.querySelector("#graph-canvas").getBoundingClientRect()
    done([canvas.x + left, canvas.y + top, width * scale, height * scale])
}))))"""
_IN_VIEW = """(name => {
    const element = [...document.querySelectorAll("span")].find(span => span.textContent === name)
    element?.scrollIntoView({ block: "center" })
    const box = element?.getBoundingClientRect(), middle = box && [box.x + box.width / 2, box.y + box.height / 2]
    return middle && element.contains(document.elementFromPoint(...middle)) ? middle : null
})"""
_FOUND = """((name, category) => {
    const rows = [...document.querySelectorAll("[role=option]")]
    const box = rows.find(row => [name, category].every(text => row.innerText.includes(text)))?.getBoundingClientRect()
    return box && [box.x + box.width / 2, box.y + box.height / 2]
})"""
_LISTEN = """
    window.outcome = null
    for (const event of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(event, ({detail}) => { window.outcome = {event, detail} })
"""


SETTINGS = {"Comfy.TutorialCompleted": True}
"""What a ComfyUI is to be told before its front end is opened, or a dialog covers the canvas."""


@contextmanager
def server_alone(base: Path) -> Iterator[ComfyUIServer]:
    """For tools: a ComfyUI on a base directory. Exits where there is none."""
    comfyui = find_comfyui()
    if not comfyui:
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to its folder, or put it at ~/comfy/ComfyUI")
    with ComfyUIServer(comfyui, base) as server:
        yield server


@contextmanager
def desk(base: Path) -> Iterator["FrontEnd"]:
    """The same, and its front end. Exits where there is no Chromium either."""
    chromium = find_chromium()
    if not chromium:
        raise SystemExit("no Chromium found; on Debian and Ubuntu: apt install chromium")
    with server_alone(base) as server:
        server.post("/settings", SETTINGS)
        with FrontEnd(chromium, base / "profile", server.url) as page:
            yield page


class FrontEnd(Chromium):
    """The front end of the ComfyUI at ``url``, its canvas empty; a context manager."""

    def __init__(self, executable: str, profile: Path, url: str, size: tuple[int, int] = (1600, 900)):
        super().__init__(executable, profile, size)
        self.url = url

    def __enter__(self):
        super().__enter__()
        try:
            self.open(self.url)
            self.wait_for(_READY, _START_TIMEOUT)  # it shows a graph at first, whose text boxes would take a drop
            self.clear()
        except BaseException:
            self.__exit__()
            raise
        return self

    def reload(self) -> None:
        """Press F5 and wait until the graph is back."""
        self.evaluate("window.before = true")
        super().reload()
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(PageError):  # the page is just leaving
                return self.wait_for(f"!window.before && {_READY}", _START_TIMEOUT)

    def clear(self) -> None:
        """Begin an empty workflow."""
        self.command("Comfy.NewBlankWorkflow")
        self.wait_for("app.graph.nodes.length === 0")

    def command(self, name: str) -> None:
        self.evaluate(f"app.extensionManager.command.execute({json.dumps(name)})")

    def set(self, setting: str, value) -> None:
        """Change a setting of the front end, such as Comfy.ColorPalette."""
        self.evaluate(f"app.extensionManager.setting.set({json.dumps(setting)}, {json.dumps(value)})")

    def drop_workflow(self, file: Path) -> None:
        """Drag a workflow's file onto the canvas and wait until its nodes are there."""
        types = {node["type"] for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]}
        self.drop(file, *self.wait_for(f"{_MIDDLE_OF}('#graph-canvas')"))
        self.wait_for(f"{json.dumps(sorted(types))}.every(type => app.graph.nodes.some(node => node.type === type))")

    def open_template(self, name: str) -> None:
        """Choose one of this pack's in the dialog of templates, with clicks, and wait until its nodes are there."""
        self.press(".templates-tab-button")
        self.click(*self.wait_for(f"{_IN_VIEW}('{PACK}')"))
        card = f"[data-testid='template-workflow-{name}']"
        self.wait_for(f"(card => card && (card.scrollIntoView({{ block: 'center' }}), true))(document.querySelector({json.dumps(card)}))")
        self.press(card)
        self.wait_for("app.graph.nodes.some(({ type }) => type.startsWith('Memo'))")

    def add(self, type: str, left: float = 300, top: float = 160, width: float = 0) -> tuple[float, float, float, float]:
        """Put a node of a class onto the canvas, at least so wide, and show it unscaled; returns where it is drawn on the page
        (left, top, width, height)."""
        self.evaluate(f"{_ADD}({json.dumps(type)}, {left}, {top}, {width})")
        return tuple(self.evaluate(f"{_BOX_OF}({json.dumps(type)})"))

    def press(self, selector: str) -> None:
        """Click on the middle of an element, once nothing covers it."""
        self.click(*self.wait_for(f"{_MIDDLE_OF}({json.dumps(selector)})"))

    def choose(self, type: str) -> None:
        """Click on the title of a node."""
        self.click(*self.wait_for(f"{_TITLE_OF}({json.dumps(type)})"))

    def set_widgets(self, inputs: dict[str, dict], graph: str = "app.graph") -> None:
        """{class of a node: {widget: value}}, as if typed in; ``graph``: which one, in JavaScript."""
        self.evaluate(f"{_SET_WIDGETS}({graph}, {json.dumps(inputs)})")

    def search(self, text: str) -> None:
        """Open the search for nodes and type."""
        self.command("Workspace.SearchBox.Toggle")
        self.wait_for("document.activeElement.role === 'combobox'")
        self.call("Input.insertText", text=text)

    def search_node(self, name: str, category: str) -> None:
        """Search a node, choose what has that name in that category, and click on the canvas to put it down."""
        self.search(name)
        time.sleep(1)  # in which what is found moves, as more is
        self.click(*self.wait_for(f"{_FOUND}({json.dumps(name)}, {json.dumps(category)})"))
        self.click(*(length / 2 for length in self.size))

    def prompt(self) -> dict:
        """The graph in API format."""
        return self.evaluate("app.graphToPrompt()")["output"]

    def unknown_nodes(self) -> list[str]:
        return self.evaluate("app.graph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))")

    def complaints(self) -> int:
        """How many of its signs for an error or a missing node are on screen, a second later: they take their time."""
        time.sleep(1)
        return self.evaluate(f"document.querySelectorAll('{COMPLAINTS}').length")

    def run(self, timeout: float = 300) -> None:
        """Press Run. Raises PageError when the graph does not run to its end."""
        self.evaluate(_LISTEN)
        self.press("[data-testid=queue-button]")
        outcome = self.wait_for("window.outcome", timeout)
        if outcome["event"] != "execution_success":
            raise PageError(json.dumps(outcome))

    def own_errors(self) -> list[str]:
        """The console's errors that speak of this pack. Help in a language that has no page of its own is looked for."""
        return [error for error in self.errors if "memo" in error.lower() and "docs/" not in error]

    def picture(self, clip: tuple[float, float, float, float]) -> Image.Image:
        """A screenshot of a part (left, top, width, height) of the page, RGB."""
        part = dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": 1}
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png", clip=part)["data"])
        return Image.open(io.BytesIO(png)).convert("RGB")
