// The editor on MEMO Emotion Timeline: its text widget, and the sound of the Load Audio that is linked to it.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { TimelineEditor } from "./timeline_editor.js"
import { wordsOf } from "./words.js"

const LOOK_EVERY = 250
const WIDTH = 420
const HEIGHT = 196
const MARGIN = 10 // that ComfyUI leaves around it
const COLUMNS = 600
const DECODED_AT = 8000 // enough to look at, and an hour of it fits into memory
const LARGEST_FILE = 200e6

app.registerExtension({
    name: "Memo.EmotionTimeline",
    setup() {
        const href = new URL("./emotion_timeline.css", import.meta.url).href
        document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }))
    },
    nodeCreated(node) {
        if (node.comfyClass === "MemoEmotionTimeline") addEditor(node)
    },
})

function addEditor(node) {
    const text = node.widgets.find(({ name }) => name === "timeline")
    const words = wordsOf(app.ui.settings.getSettingValue("Comfy.Locale"))
    const editor = new TimelineEditor(value => {
        text.value = value
        text.callback?.(value)
        // a step of ComfyUI's undo, which sees for itself only what a mouse or a key does to elements of its own
        app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.()
    }, words)
    const height = () => Math.max(HEIGHT, editor.height + 2 * MARGIN)
    const widget = node.addDOMWidget("timeline_editor", "memo_timeline", editor.element, {
        serialize: false,
        hideOnZoom: false,
        hideInPanel: true, // which has no room for it, and would give the node's editor its own width for good
        getMinHeight: height,
        getMaxHeight: height,
    })
    widget.serialize = false // the text holds it all
    leaveToCanvas(editor)

    const fit = width => {
        node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], node.computeSize()[1])])
        node.setDirtyCanvas(true, true)
    }

    // Typing, links, files that are chosen, undo: not all of them are told, so all of them are looked at.
    let timer, file, drawn
    const look = async () => {
        if (!isInUse(node.graph)) return clearInterval(timer)
        takePlace(editor.element, node.id)
        const linked = node.inputs?.find(({ name }) => name === "timeline")?.link != null
        const locked = linked ? words.linked : ""
        if (text.value !== editor.text || locked !== editor.locked) editor.show(text.value, locked)
        if (height() !== drawn) fit(0)
        drawn = height()
        const found = audioFile(node)
        if (found === file) return
        file = found
        const sound = await decoded(found)
        if (found === file) editor.showSound(sound, sound || found === undefined ? "" : found === null ? words.notLoaded : words.notDecoded)
    }
    chain(node, "onAdded", () => {
        clearInterval(timer)
        timer = setInterval(look, LOOK_EVERY)
    })
    chain(node, "onRemoved", () => (clearInterval(timer), editor.stop()))
    // sound from elsewhere is known once it has come through
    chain(node, "onExecuted", output => (node.memoSound = nameOf(output?.memo_sound?.[0])))
    fit(WIDTH)
}

// After an undo of the canvas, Nodes 2.0 still shows the editor of the node that was there before.
function takePlace(element, id) {
    if (!element.isConnected) document.querySelector(`[data-node-id="${id}"] .memo-timeline`)?.replaceWith(element)
}

// Nodes in subgraphs are not told when another workflow is opened.
function isInUse(graph) {
    const root = graph?.rootGraph ?? graph
    return graph === root || root.subgraphs.get(graph.id) === graph
}

function chain(node, name, action) {
    const before = node[name]
    node[name] = function (...given) {
        action(...given)
        return before?.apply(this, given)
    }
}

// Wheel and middle button move the canvas, as over ComfyUI's own text boxes; Nodes 2.0 sees to it itself.
function leaveToCanvas({ element, said }) {
    const on = (kind, isForCanvas, take) => element.addEventListener(kind, event => !LiteGraph.vueNodesMode && isForCanvas(event) && take(event))
    on("pointerdown", ({ button }) => button === 1, event => app.canvas.processMouseDown(event))
    on("pointermove", ({ buttons }) => buttons & 4, event => app.canvas.processMouseMove(event))
    on("pointerup", ({ button }) => button === 1, event => app.canvas.processMouseUp(event))
    const scrolls = ({ target, ctrlKey }) => target === said && said.scrollHeight > said.clientHeight && !ctrlKey
    on("wheel", event => !scrolls(event), event => (event.preventDefault(), app.canvas.processMouseWheel(event)))
}

function nameOf(saved) {
    return saved && `${saved.filename} [${saved.type}]`
}

// What Load Audio names a file by, "folder/name.wav [output]"; null for sound from elsewhere that no run has brought, undefined for none.
function audioFile(node) {
    const loader = origin(node.graph, node.inputs?.find(({ name }) => name === "audio")?.link)
    if (loader === undefined) return undefined
    if (loader?.comfyClass !== "LoadAudio") return node.memoSound ?? null
    return loader.widgets.find(({ name }) => name === "audio")?.value ?? null
}

// The node that a link comes from, through the borders of subgraphs; null where that cannot be said, undefined where there is no link.
function origin(graph, id) {
    const link = graph?.getLink?.(id)
    if (!link?.originIsIoNode) return link && graph.getNodeById(link.origin_id)
    const boxes = [graph.rootGraph, ...graph.rootGraph.subgraphs.values()].flatMap(({ nodes }) => nodes.filter(box => box.subgraph === graph))
    if (boxes.length !== 1) return null // each of them may have a sound of its own
    return origin(boxes[0].graph, boxes[0].inputs[link.origin_slot]?.link)
}

// {length, peaks, url} of a file; null where it is missing, too large, or nothing that the browser can play.
async function decoded(file) {
    if (!file) return null
    const [, subfolder = "", filename, type = "input"] = file.match(/^(?:(.*)\/)?([^/]*?)(?: \[(\w+)\])?$/)
    try {
        const url = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
        const answer = await fetch(url)
        if (!answer.ok || Number(answer.headers.get("Content-Length")) > LARGEST_FILE) return null
        const sound = await new OfflineAudioContext(1, 1, DECODED_AT).decodeAudioData(await answer.arrayBuffer())
        return { length: Math.round(sound.duration * 1000), peaks: peaks(sound), url }
    } catch {
        return null
    }
}

// The loudest of each column, of all channels; the loudest of all is 1.
function peaks(sound) {
    const columns = new Array(COLUMNS).fill(0)
    for (let channel = 0; channel < sound.numberOfChannels; channel++) {
        const samples = sound.getChannelData(channel)
        for (let i = 0; i < samples.length; i++) {
            const column = Math.floor((i * COLUMNS) / samples.length)
            columns[column] = Math.max(columns[column], Math.abs(samples[i]))
        }
    }
    const loudest = Math.max(...columns) || 1
    return columns.map(peak => peak / loudest)
}
