"""The editor on MEMO Emotion Timeline, driven with the mouse and the keyboard: the text and the drawing always agree."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from memo_modules.audio.timeline import format_timeline, parse_timeline
from memo_modules.types import EMOTIONS
from tools.front_end import FrontEnd

ROOT = Path(__file__).resolve().parents[2]
SIZE = (1300, 760)

pytestmark = pytest.mark.browser

BUILD = """(() => {
    const timeline = LiteGraph.createNode("MemoEmotionTimeline")
    const sound = LiteGraph.createNode("LoadAudio")
    app.graph.add(sound)
    app.graph.add(timeline)
    sound.pos = [80, 120]
    timeline.pos = [480, 120]
    sound.widgets.find(({ name }) => name === "audio").value = "speech.wav"
    sound.connect(0, timeline, timeline.findInputSlot("audio"))
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    app.canvas.setDirty(true, true)
})()"""
NODE = "app.graph.nodes.find(({ type }) => type === 'MemoEmotionTimeline')"
TEXT = f"{NODE}.widgets.find(({{ name }}) => name === 'timeline').value"
DRAWN = """[...document.querySelectorAll(".memo-band")].map(band => band.title).join(", ")"""
SAID = """document.querySelector(".memo-said").textContent"""
WAVE = """document.querySelector(".memo-track path")?.getAttribute("d")?.length > 1000"""
BOX = """(box => [box.x, box.y, box.width, box.height])(document.querySelector("{}").getBoundingClientRect())"""
LAST_TICK = "[...document.querySelectorAll('.memo-ruler span')].at(-1).textContent"
VIEW = "[...app.canvas.ds.offset, app.canvas.ds.scale]"
PANEL = "document.querySelector('[data-testid=properties-panel]')"
# what stands out of the track or of the editor, sideways or below
CUT_OFF = """(() => {
    const outside = (selector, within) => [...document.querySelectorAll(selector)].filter(element => {
        const [box, room] = [element, element.closest(within)].map(part => part.getBoundingClientRect())
        return box.left < room.left || box.right > room.right || box.bottom > room.bottom + 1
    })
    return [...outside(".memo-ruler span", ".memo-track"), ...outside(".memo-tools > *, .memo-said", ".memo-timeline")].map(part => part.textContent)
})()"""
NOT_SCROLLED = "(said => said.scrollHeight <= said.clientHeight)(document.querySelector('.memo-said'))"
LENGTH_OF_SPEECH = 124354 / 24000
# WCAG 2: letters on what is painted behind them
CONTRASTS = """[...document.querySelectorAll(".memo-timeline *")]
    .filter(element => element.childNodes[0]?.nodeType === Node.TEXT_NODE && !element.disabled && element.tagName !== "OPTION")
    .map(element => {
        const channels = colour => colour.match(/[\\d.]+/g).map(Number)
        let behind = element
        while (behind !== document.body && channels(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement
        const luminance = colour => {
            const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
            const [red, green, blue] = channels(colour).map(value => linear(value / 255))
            return 0.2126 * red + 0.7152 * green + 0.0722 * blue
        }
        const colours = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
        const [dark, light] = colours.map(luminance).sort((one, other) => one - other)
        return [element.className || element.tagName, (light + 0.05) / (dark + 0.05)]
    })"""


SESSIONS = """import("/extensions/ComfyUI-MEMO/timeline_editor.js").then(async ({ TimelineEditor }) => {
    const { wordsOf } = await import("/extensions/ComfyUI-MEMO/words.js")
    const edits = await import("/extensions/ComfyUI-MEMO/timeline_edits.js")
    let state = 1
    const chance = () => (state = (state * 48271) % 2147483647) / 2147483647 // Park and Miller's
    const whole = below => Math.floor(chance() * below)
    const texts = []
    for (let session = 0; session < 1000; session++) {
        let written = ""
        const editor = new TimelineEditor(text => (written = text), wordsOf(["en", "zh", "de"][session % 3]))
        editor.show("", "")
        editor.showSound(chance() < 0.5 ? { length: 4000 + whole(60000), peaks: [0, 1] } : null, "")
        const steps = [
            () => editor.addAt(edits.snapped(whole(editor.length))),
            () => editor.add(),
            () => editor.remove(),
            () => editor.choose(whole(9)),
            () => editor.select(whole(editor.segments.length || 1)),
            () => editor.nudge(["start", "end", "all"][whole(3)], whole(2) * 2 - 1),
            () => editor.undo(),
            () => editor.redo(),
            () => editor.zoomTo(2 ** whole(5)),
            () => {
                const times = [0, 0].map(() => edits.snapped(whole(editor.length), true))
                const { segments, added } = edits.drawBetween(editor.segments, ...times, whole(9), editor.length)
                if (added >= 0) editor.change(segments, added)
            },
            () => {
                const { segments, length } = editor, i = whole(segments.length)
                if (segments.length) editor.change(edits.moveSegment(segments, i, edits.snapped(whole(length)), length), i)
            },
            () => {
                const { segments, length } = editor, i = whole(segments.length), side = ["start", "end"][whole(2)]
                if (segments.length) editor.change(edits.moveBorder(segments, i, side, edits.snapped(whole(length)), length), i)
            },
        ]
        for (let step = 0; step < 12; step++) {
            steps[whole(steps.length)]()
            const drawn = [...editor.element.querySelectorAll(".memo-band")].map(({ title }) => title).join(", ")
            if (drawn !== written || editor.text !== written || editor.problem)
                throw new Error(`session ${session}: ${written} is drawn as ${drawn} ${editor.problem}`)
        }
        texts.push(written)
    }
    return texts.filter(Boolean).concat(texts.filter(text => !text))
})"""


class Desk:
    """The node with its editor in a page."""

    def __init__(self, page: FrontEnd):
        self.page = page

    def point(self, seconds: float, height: float = 0.63) -> tuple[float, float]:
        """Where a time is on the track, by default among the segments."""
        x, y, width, tall = self.page.evaluate(BOX.format(".memo-track"))
        return x + width * seconds / LENGTH_OF_SPEECH, y + tall * height

    def mouse(self, kind: str, x: float, y: float, **more) -> None:
        self.page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", **more)

    def click(self, seconds: float) -> None:
        self.page.click(*self.point(seconds))

    def double_click(self, seconds: float) -> None:
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                self.mouse(kind, *self.point(seconds), clickCount=count)

    def drag(self, seconds: float, to: float, shift: bool = False) -> None:
        modifiers, steps = 8 * shift, 5
        self.mouse("mouseMoved", *self.point(seconds))
        self.mouse("mousePressed", *self.point(seconds), clickCount=1, modifiers=modifiers)
        for step in range(1, steps + 1):
            self.mouse("mouseMoved", *self.point(seconds + (to - seconds) * step / steps), buttons=1, modifiers=modifiers)
        self.mouse("mouseReleased", *self.point(to), clickCount=1, modifiers=modifiers)

    def press(self, name: str) -> None:
        button = f"[...document.querySelectorAll('.memo-tools button')].find(button => button.textContent === '{name}')"
        self.page.click(*self.page.evaluate(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({button}.getBoundingClientRect())"))

    def key(self, key: str, code: int, modifiers: int = 0, commands: Sequence[str] = ()) -> None:
        """``commands``: what a browser does by itself at that key, which this one has to be told."""
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.page.call("Input.dispatchKeyEvent", type="rawKeyDown", commands=[*commands], **pressed)
        self.page.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def choose(self, emotion: str) -> None:
        """As a menu does, which a page without a window cannot open."""
        choose = f"select => {{ select.value = {EMOTIONS.index(emotion)}; select.dispatchEvent(new Event('change')) }}"
        self.page.evaluate(f"({choose})(document.querySelector('.memo-tools select'))")

    def type(self, text: str) -> None:
        self.page.evaluate("(box => { box.focus(); box.select() })(document.querySelector('textarea'))")
        self.page.call("Input.insertText", text=text)

    def shows(self, text: str) -> bool:
        """Whether both the text and the drawing become that."""
        self.page.wait_for(f"{TEXT} === {json.dumps(text)} && {DRAWN} === {json.dumps(text)}", timeout=20)
        parse_timeline(text)
        return True


@pytest.fixture(scope="module")
def editor(chromium, server, tmp_path_factory):
    """The front end that all tests share."""
    with FrontEnd(chromium, tmp_path_factory.mktemp("profile"), server.url, SIZE) as page:
        yield page


@pytest.fixture
def desk(editor, renderer, tmp_path):
    """How a test left it is screenshot.png in its temporary folder."""
    editor.set("Comfy.VueNodes.Enabled", renderer == "Vue")
    editor.set("Comfy.ColorPalette", "dark")
    editor.clear()
    editor.wait_for("!document.querySelector('.memo-timeline')")
    editor.evaluate(BUILD)
    editor.wait_for(WAVE)
    editor.errors.clear()
    yield Desk(editor)
    editor.screenshot(tmp_path / "screenshot.png")
    assert editor.own_errors() == []


def test_drawn_dragged_deleted_and_undone(desk):
    desk.double_click(0.5)  # in the gap that all of it is
    assert desk.shows("0.5-1.5 happy")
    desk.drag(1.5, 3)
    assert desk.shows("0.5-3 happy")
    desk.drag(0.5, 0)
    assert desk.shows("0-3 happy")
    desk.double_click(2)
    assert desk.shows("0-2 happy, 2-3 happy")
    desk.choose("sad")
    assert desk.shows("0-2 happy, 2-3 sad")
    desk.drag(2, 1.25, shift=True)  # shared by both
    assert desk.shows("0-1.25 happy, 1.25-3 sad")
    desk.drag(3, 5.5)
    assert desk.shows("0-1.25 happy, 1.25- sad")
    desk.click(0.5)
    desk.key("Delete", 46)
    assert desk.shows("1.25- sad")
    assert desk.page.evaluate("app.graph.nodes.length") == 2  # the key took no node away
    for text in ("0-1.25 happy, 1.25- sad", "0-1.25 happy, 1.25-3 sad", "0-2 happy, 2-3 sad"):
        desk.key("z", 90, modifiers=2)
        assert desk.shows(text)
    desk.key("Z", 90, modifiers=2 + 8)
    assert desk.shows("0-1.25 happy, 1.25-3 sad")
    desk.press("Undo")
    assert desk.shows("0-2 happy, 2-3 sad")
    desk.press("Redo")
    assert desk.shows("0-1.25 happy, 1.25-3 sad")
    desk.press("Add")  # the first is no longer chosen, so after the last
    desk.press("Delete")
    assert desk.shows("0-1.25 happy, 1.25-3 sad")


def test_text_and_drawing_agree_after_each_step_of_a_thousand_random_sessions(editor):
    texts = editor.evaluate(SESSIONS)
    assert len(texts) == 1000 and len(set(texts)) > 800
    for text in texts:
        assert format_timeline(parse_timeline(text)) == text


def test_what_is_typed_is_drawn_and_what_is_wrong_is_said(desk):
    desk.type("3- sad; 0 - 0:03 Neutral")
    desk.page.wait_for(f"{DRAWN} === '0-3 neutral, 3- sad'")
    assert desk.page.evaluate(TEXT) == "3- sad; 0 - 0:03 Neutral"  # which nobody rewrites
    desk.type("0-3 hapy")
    desk.page.wait_for(f'{SAID}.startsWith(\'"hapy" in "0-3 hapy" is not an emotion. Did you mean happy?\')')
    desk.double_click(1)
    assert desk.page.evaluate(TEXT) == "0-3 hapy"
    desk.type("0-3 happy")
    assert desk.shows("0-3 happy")
    desk.drag(3, 4)
    assert desk.shows("0-4 happy")
    desk.key("z", 90, modifiers=2)
    assert desk.shows("0-3 happy")


def test_segments_are_drawn_and_moved_as_a_whole(desk):
    desk.drag(0.5, 1.5)  # in the gap
    assert desk.shows("0.5-1.5 happy")
    desk.drag(1, 2.2)  # the segment itself
    assert desk.shows("1.7-2.7 happy")
    desk.key("7", 55)
    assert desk.shows("1.7-2.7 sad")
    desk.drag(4.5, 3.5)  # backwards, in what was chosen last
    assert desk.shows("1.7-2.7 sad, 3.5-4.5 sad")
    desk.drag(2.2, 4.4)  # as far as its neighbour lets it
    assert desk.shows("2.5-3.5 sad, 3.5-4.5 sad")
    desk.drag(0.5, 5)  # over others: as far as the gap goes
    assert desk.shows("0.5-2.5 sad, 2.5-3.5 sad, 3.5-4.5 sad")
    for text in ("2.5-3.5 sad, 3.5-4.5 sad", "1.7-2.7 sad, 3.5-4.5 sad", "1.7-2.7 sad"):
        desk.key("z", 90, modifiers=2)
        assert desk.shows(text)


def test_the_keyboard_moves_borders_and_segments(desk):
    desk.drag(1, 2)
    desk.key("4", 52)
    assert desk.shows("1-2 happy")
    for key, code, modifiers, text in (
        ("ArrowRight", 39, 1, "1-2.1 happy"),
        ("ArrowLeft", 37, 8, "0.9-2.1 happy"),
        ("ArrowRight", 39, 2, "1-2.2 happy"),
        ("5", 53, 0, "1-2.2 neutral"),
    ):
        desk.key(key, code, modifiers=modifiers)
        assert desk.shows(text)
    assert desk.page.evaluate("app.graph.nodes.length") == 2


def test_zoomed_in_it_is_scrolled_and_a_drag_is_finer(desk):
    desk.drag(1, 2)
    assert desk.shows("1-2 happy")
    whole = desk.page.evaluate(BOX.format(".memo-track"))[2]
    for _ in range(2):
        desk.key("+", 187)
    assert desk.page.evaluate(BOX.format(".memo-track"))[2] == pytest.approx(4 * whole, rel=0.01)
    left, _, width, _ = desk.page.evaluate(BOX.format(".memo-frame"))
    assert width == pytest.approx(whole, abs=4)
    assert left <= desk.point(1)[0] <= left + width, "what is chosen is seen"
    desk.press("−")
    desk.press("−")
    assert desk.page.evaluate(BOX.format(".memo-track"))[2] == pytest.approx(whole, abs=1)
    assert desk.shows("1-2 happy")


def test_it_plays_from_where_it_was_pressed(desk):
    desk.page.evaluate("""(() => {
        window.played = []
        window.WholeAudio ??= Audio
        window.Audio = class extends window.WholeAudio {
            play() {
                window.played.push([this.src, this.currentTime])
                return super.play()
            }
        }
    })()""")
    desk.click(2)
    desk.key(" ", 32)
    desk.page.wait_for("window.played.length === 1")
    [[source, time]] = desk.page.evaluate("window.played")
    assert "speech.wav" in source and time == pytest.approx(2, abs=0.05)
    desk.page.wait_for("[...document.querySelectorAll('.memo-tools button')][0].textContent === 'Stop'")
    desk.press("Stop")
    desk.page.wait_for("[...document.querySelectorAll('.memo-tools button')][0].textContent === 'Play'")


def test_a_mood_after_the_end_of_the_sound_is_warned_of(desk):
    desk.type("0-3 happy, 8-9 sad")
    assert desk.shows("0-3 happy, 8-9 sad")
    desk.page.evaluate("document.querySelector('.memo-keys').focus()")
    desk.key("ArrowRight", 39)
    desk.page.wait_for(f"!{SAID}.includes('after the end of the sound')")
    desk.key("ArrowRight", 39)
    desk.page.wait_for(f"{SAID}.includes('after the end of the sound')")


def test_sound_from_elsewhere_is_drawn_after_a_run(desk):
    desk.page.evaluate(f"""(() => {{
        const trim = LiteGraph.createNode("TrimAudioDuration"), shown = LiteGraph.createNode("PreviewAny")
        const loader = app.graph.nodes.find(({{ type }}) => type === "LoadAudio")
        for (const node of [trim, shown]) app.graph.add(node)
        trim.widgets.find(({{ name }}) => name === "duration").value = 2
        loader.connect(0, trim, 0)
        trim.connect(0, {NODE}, {NODE}.findInputSlot("audio"))
        {NODE}.connect(0, shown, 0)
    }})()""")
    desk.page.wait_for(f"!({WAVE})")
    desk.page.run()
    desk.page.wait_for(f"{WAVE} && !{SAID}.includes('unknown')", timeout=20)
    desk.page.wait_for(f"{LAST_TICK} === '2'")


def test_undo_of_the_canvas_takes_back_one_edit_at_a_time(desk):
    desk.page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")  # what no hand has made
    for edit in (lambda: desk.double_click(0.5), lambda: desk.drag(1.5, 3), lambda: desk.choose("sad")):
        edit()
    assert desk.shows("0.5-3 sad")
    for text in ("0.5-3 happy", "0.5-1.5 happy", ""):
        desk.page.command("Comfy.Undo")
        assert desk.shows(text)
    desk.page.command("Comfy.Redo")
    assert desk.shows("0.5-1.5 happy")


def test_ctrl_c_copies_the_node_after_an_edit(desk):
    desk.double_click(0.5)
    assert desk.shows("0.5-1.5 happy")
    desk.page.evaluate(f"app.canvas.selectItems([{NODE}])")
    assert desk.page.evaluate("document.activeElement.className") == "memo-keys"
    desk.page.evaluate("localStorage.removeItem('litegrapheditor_clipboard')")
    desk.key("c", 67, modifiers=2, commands=("copy",))
    desk.page.wait_for("localStorage.getItem('litegrapheditor_clipboard')?.includes('MemoEmotionTimeline')", timeout=10)


def test_saved_and_loaded_it_is_the_same(desk, chromium, server, tmp_path):
    desk.double_click(1)
    desk.choose("fearful")
    assert desk.shows("1-2 fearful")
    saved = desk.page.evaluate("JSON.stringify(app.graph.serialize())")
    [node] = [node for node in json.loads(saved)["nodes"] if node["type"] == "MemoEmotionTimeline"]
    assert node["widgets_values"] == ["1-2 fearful"]
    [inputs] = [part["inputs"] for part in desk.page.prompt().values() if part["class_type"] == "MemoEmotionTimeline"]
    assert inputs.keys() == {"timeline", "audio"} and inputs["timeline"] == "1-2 fearful"
    with FrontEnd(chromium, tmp_path / "profile", server.url, SIZE) as another:
        another.evaluate(f"app.loadGraphData({saved})")
        loaded = Desk(another)
        assert loaded.shows("1-2 fearful")
        another.wait_for(WAVE)
        loaded.drag(2, 4)
        assert loaded.shows("1-4 fearful")
        assert another.own_errors() == []


def test_without_a_sound_there_is_a_plain_ruler(desk):
    desk.page.evaluate(f"{NODE}.disconnectInput({NODE}.findInputSlot('audio'))")
    desk.page.wait_for(f"!({WAVE})")
    desk.page.wait_for(f"{LAST_TICK} === '10'")
    assert desk.page.evaluate(CUT_OFF) == []
    desk.press("Add")
    assert desk.shows("0-2 happy")


def test_properties_panel_leaves_the_editor_as_it_is(desk):
    width = desk.page.evaluate(BOX.format(".memo-track"))[2]
    try:
        desk.page.set("Comfy.RightSidePanel.IsOpen", True)
        desk.page.wait_for(PANEL + " !== null")
        desk.page.evaluate(f"app.canvas.selectItems([{NODE}])")
        desk.page.wait_for(f"{PANEL}?.innerText.includes('timeline')")
        time.sleep(1)  # in which the panel would take the editor
        assert "timeline_editor" not in desk.page.evaluate(f"{PANEL}.innerText")
        assert desk.page.evaluate(BOX.format(".memo-track"))[2] == width
    finally:
        desk.page.set("Comfy.RightSidePanel.IsOpen", False)


def test_wheel_and_middle_button_move_the_canvas(desk):
    x, y = desk.point(2)
    before = desk.page.evaluate(VIEW)
    desk.page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    desk.page.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="middle", clickCount=1)
    for step in range(1, 6):
        desk.page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 20 * step, y=y + 10 * step, button="middle", buttons=4)
    desk.page.call("Input.dispatchMouseEvent", type="mouseReleased", x=x - 100, y=y + 50, button="middle", clickCount=1)
    assert desk.page.evaluate(VIEW) == [pytest.approx(before[0] - 100, abs=1), pytest.approx(before[1] + 50, abs=1), before[2]]
    desk.page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x - 100, y=y + 50, deltaX=0, deltaY=-100)
    desk.page.wait_for(f"{VIEW}[2] > {before[2]}")
    assert desk.page.evaluate(TEXT) == ""


def test_sound_is_followed_out_of_a_subgraph(desk):
    desk.page.evaluate(f"""(() => {{
        const {{ subgraph, node }} = app.graph.convertToSubgraph(new Set([{NODE}]))
        app.canvas.openSubgraph(subgraph, node)
    }})()""")
    desk.page.wait_for("app.canvas.graph !== app.graph && " + WAVE)
    assert "unknown" not in desk.page.evaluate(SAID)
    desk.page.evaluate("app.graph.nodes.find(({ type }) => type === 'LoadAudio').disconnectOutput(0)")
    desk.page.wait_for(f"!({WAVE})")
    assert "unknown" not in desk.page.evaluate(SAID)


def test_says_where_the_length_of_the_sound_is_unknown(desk):
    desk.page.evaluate(f"""(() => {{
        const vocals = LiteGraph.createNode("MemoSeparateVocals")
        app.graph.add(vocals)
        vocals.connect(0, {NODE}, {NODE}.findInputSlot("audio"))
    }})()""")
    desk.page.wait_for(f"!({WAVE}) && {SAID}.startsWith('Length unknown until Load Audio is wired directly, or after a run.')")
    desk.page.wait_for(f"{NOT_SCROLLED} && {CUT_OFF}.length === 0", timeout=10)


def test_everything_has_its_place_on_a_narrow_node(desk):
    desk.page.evaluate(f"{NODE}.setSize([260, {NODE}.computeSize()[1]]); app.canvas.setDirty(true, true)")
    desk.page.wait_for(f"{BOX.format('.memo-track')}[2] < 260")
    desk.page.wait_for(f"{NOT_SCROLLED} && {CUT_OFF}.length === 0 && {NODE}.size[1] >= {NODE}.computeSize()[1]", timeout=10)


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_letters_can_be_read_in_every_theme(desk, palette, renderer):
    """With MEMO_WRITE_SCREENSHOTS=1 the node, as the canvas draws it, goes to docs/."""
    desk.page.set("Comfy.ColorPalette", palette)
    desk.type("0-1.1 neutral, 1.1-2.3 happy, 2.3-3 surprised, 3- sad")
    desk.page.wait_for(f"{DRAWN}.endsWith('sad')")
    desk.click(1.7)
    time.sleep(1)  # in which the theme changes
    if os.environ.get("MEMO_WRITE_SCREENSHOTS") == "1" and renderer == "canvas":
        desk.page.picture((66, 76, 850, 366)).save(ROOT / "docs" / f"emotion_timeline_{palette}.png")
    desk.type(", ".join(f"{i / 2}-{i / 2 + 0.5} {emotion}" for i, emotion in enumerate(EMOTIONS)))
    desk.page.wait_for(f"{DRAWN}.endsWith('unknown')")
    contrasts = desk.page.evaluate(CONTRASTS)
    assert {"memo-band", "memo-said", "SPAN", "BUTTON"} <= {name for name, _ in contrasts}
    desk.type("0-3 hapy")
    desk.page.wait_for(f"{SAID}.includes('not an emotion')")
    contrasts += desk.page.evaluate(CONTRASTS)
    assert "memo-said memo-problem" in {name for name, _ in contrasts}
    assert [(name, contrast) for name, contrast in contrasts if contrast < 4.5] == []
