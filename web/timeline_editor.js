// Draws a timeline over its sound and lets it be changed with the mouse and the keyboard. The text is the only state:
// whatever is done here writes it, and whatever is written there is drawn.

import { addAt, moveBorder, snapped } from "./timeline_edits.js"
import { EMOTIONS, formatTime, formatTimeline, parseTimeline } from "./timeline_grammar.js"

// Light enough for dark letters on each, in every theme; those of memo_modules/audio/drawing.py.
export const COLOURS = {
    angry: "#f28b82",
    disgusted: "#b5cc6a",
    fearful: "#c9a6f0",
    happy: "#fdd663",
    neutral: "#c4c7cc",
    other: "#d7b899",
    sad: "#8ab4f8",
    surprised: "#7fd8c8",
    unknown: "#9aa5b1",
}
const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].map(seconds => seconds * 1000)
const MOST_TICKS = 8
const LAST = 0.95 // of the ruler: a number in the middle of what is behind that would be cut off
const MOST_SAID = 64 // pixels: what is longer is scrolled
const BETWEEN = 16
const LENGTH_WITHOUT_SOUND = 10000
const HINT = "Double-click adds a segment or splits one; drag borders (Shift: finer), Delete removes, Ctrl+Z undoes."

export class TimelineEditor {
    // write: gets each new text.
    constructor(write) {
        this.write = write
        this.text = null
        this.segments = []
        this.selected = -1
        this.past = []
        this.future = []
        this.sound = null // {length: milliseconds, peaks: 0 to 1 over time}
        this.note = ""
        this.locked = "" // why nothing can be changed
        this.build()
    }

    // Takes over a text that was typed, loaded or undone elsewhere.
    show(text, locked) {
        if (text !== this.text && this.text !== null && !this.typing) {
            this.past.push(this.text)
            this.typing = true // one step of undo for all letters
        }
        if (text !== this.text) this.future = []
        this.locked = locked
        this.take(text)
    }

    // note: why there is none, to be said beside what else is said; empty where none is expected.
    showSound(sound, note) {
        this.sound = sound
        this.note = note
        this.draw()
    }

    take(text) {
        this.text = text
        try {
            this.segments = parseTimeline(text)
            this.problem = ""
        } catch (error) {
            this.segments = []
            this.problem = error.message.replace("timeline: ", "")
        }
        this.selected = Math.min(this.selected, this.segments.length - 1)
        this.draw()
    }

    // One step of undo.
    change(segments, selected) {
        const text = formatTimeline(segments)
        this.selected = selected
        if (text !== this.text) {
            this.past.push(this.text)
            this.future = []
            this.typing = false
            this.put(text)
        } else this.draw()
    }

    put(text) {
        this.take(text)
        this.write(text)
    }

    step(from, to) {
        if (!from.length || this.locked) return
        to.push(this.text)
        this.typing = false
        this.put(from.pop())
    }

    undo() {
        this.step(this.past, this.future)
    }

    redo() {
        this.step(this.future, this.past)
    }

    add() {
        const chosen = this.segments[this.selected] ?? this.segments.at(-1)
        const end = chosen ? (chosen.end ?? this.length) : 0
        const inside = this.selected >= 0 || end >= this.length
        this.addAt(inside && chosen ? snapped((chosen.start + end) / 2) : end)
    }

    addAt(time) {
        const { segments, added } = addAt(this.segments, time, this.length)
        this.change(segments, added)
    }

    remove() {
        if (this.selected >= 0 && !this.locked) this.change(this.segments.toSpliced(this.selected, 1), -1)
    }

    choose(label) {
        this.change(this.segments.with(this.selected, { ...this.segments[this.selected], label }), this.selected)
    }

    // Where the ruler ends; while a border is dragged it stays.
    get length() {
        if (this.drag) return this.drag.length
        const last = this.segments.at(-1)
        const needed = last ? (last.end ?? last.start + 1000) : 0
        if (this.sound) return Math.max(this.sound.length, needed)
        return Math.max(LENGTH_WITHOUT_SOUND, snapped(needed * 1.25))
    }

    // Of all that it shows: where it is narrow, tools and letters need more rows.
    get height() {
        return this.track.offsetHeight + this.tools.offsetHeight + Math.min(this.said.scrollHeight, MOST_SAID) + BETWEEN
    }

    build() {
        const button = (text, title, action) => {
            const made = create("button", { type: "button", textContent: text, title })
            made.addEventListener("click", () => (action(), this.keys.focus({ preventScroll: true })))
            return made
        }
        this.wave = document.createElementNS("http://www.w3.org/2000/svg", "svg")
        this.wave.setAttribute("preserveAspectRatio", "none")
        this.path = this.wave.appendChild(document.createElementNS(this.wave.namespaceURI, "path"))
        this.bands = create("div", { className: "memo-bands" })
        this.ruler = create("div", { className: "memo-ruler" })
        this.track = create("div", { className: "memo-track" }, this.wave, this.bands, this.ruler)
        // an input, because ComfyUI leaves undo to those; of the one kind that it does not think holds a text to be copied: the node is
        this.keys = create("input", { className: "memo-keys", type: "search", readOnly: true, ariaLabel: `Emotion timeline. ${HINT}` })
        const options = EMOTIONS.map((emotion, label) => create("option", { value: label, textContent: emotion }))
        this.emotions = create("select", { title: "Emotion of the chosen segment" }, ...options)
        this.emotions.addEventListener("change", () => (this.choose(Number(this.emotions.value)), this.keys.focus({ preventScroll: true })))
        this.buttons = {
            add: button("Add", "Split the chosen segment, or add one at the end", () => this.add()),
            remove: button("Delete", "Remove the chosen segment (Delete)", () => this.remove()),
            undo: button("Undo", "Undo (Ctrl+Z)", () => this.undo()),
            redo: button("Redo", "Redo (Ctrl+Shift+Z)", () => this.redo()),
        }
        this.tools = create("div", { className: "memo-tools" }, this.emotions, ...Object.values(this.buttons))
        this.said = create("div", { className: "memo-said", role: "status" })
        this.element = create("div", { className: "memo-timeline" }, this.keys, this.track, this.tools, this.said)
        this.listen()
    }

    listen() {
        for (const kind of ["pointerdown", "pointermove", "pointerup", "dblclick"])
            this.element.addEventListener(kind, event => event.stopPropagation()) // or ComfyUI drags the node
        this.track.addEventListener("pointerdown", event => this.press(event))
        this.track.addEventListener("pointermove", event => this.move(event))
        this.track.addEventListener("pointerup", () => this.release(true))
        this.track.addEventListener("pointercancel", () => this.release(false))
        this.track.addEventListener("dblclick", event => {
            if (!this.locked && !this.problem && !event.target.dataset.side) this.addAt(snapped(this.timeAt(event)))
        })
        this.keys.addEventListener("keydown", event => this.pressKey(event))
    }

    timeAt(event) {
        const box = this.track.getBoundingClientRect() // zoomed with ComfyUI's canvas
        return ((event.clientX - box.left) / box.width) * this.length
    }

    press(event) {
        if (event.button !== 0) return
        event.preventDefault()
        this.keys.focus({ preventScroll: true })
        const { index, side } = event.target.dataset
        this.selected = index === undefined ? -1 : Number(index)
        if (side && !this.locked) {
            this.track.setPointerCapture(event.pointerId)
            this.drag = { side, index: this.selected, segments: this.segments, length: this.length }
        }
        this.draw()
    }

    move(event) {
        if (!this.drag) return
        const { side, index, segments, length } = this.drag
        this.segments = moveBorder(segments, index, side, snapped(this.timeAt(event), event.shiftKey), length)
        this.draw()
    }

    release(keep) {
        if (!this.drag) return
        const moved = keep ? this.segments : this.drag.segments
        this.drag = null
        this.change(moved, this.selected)
    }

    pressKey(event) {
        const key = event.key.toLowerCase()
        const command = event.ctrlKey || event.metaKey
        if (command && (key === "y" || (key === "z" && event.shiftKey))) this.redo()
        else if (command && key === "z") this.undo()
        else if (key === "delete" || key === "backspace") this.remove()
        else if (key === "arrowleft" || key === "arrowright") this.select(this.selected + (key === "arrowleft" ? -1 : 1))
        else return
        event.preventDefault()
        event.stopPropagation() // Delete would remove the node
    }

    select(index) {
        this.selected = Math.max(0, Math.min(this.segments.length - 1, index))
        this.draw()
    }

    draw() {
        const { length } = this
        const percent = time => `${(100 * time) / length}%`
        this.drawSegments(percent)
        this.drawSound(percent)
        const step = TICKS.find(tick => length / tick <= MOST_TICKS) ?? length / MOST_TICKS
        const times = Array.from({ length: Math.floor(length / step) + 1 }, (_, i) => Math.round(i * step))
        const label = time => create("span", { textContent: formatTime(time), style: `left: ${percent(time)}` })
        this.ruler.replaceChildren(...times.map(label))
        this.ruler.lastChild.classList.toggle("memo-last", times.at(-1) > LAST * length)
        this.drawTools()
    }

    // Elements stay while what they show changes: between the clicks of a double-click none may be replaced.
    drawSegments(percent) {
        const { bands, segments } = this
        while (bands.children.length > 3 * segments.length) bands.lastChild.remove()
        while (bands.children.length < 3 * segments.length) bands.append(create("div"))
        segments.forEach(({ start, end, label }, i) => {
            const emotion = EMOTIONS[label]
            const [from, to] = [percent(start), percent(end ?? this.length)]
            const title = formatTimeline([{ start, end, label }])
            const [band, ...borders] = [...bands.children].slice(3 * i, 3 * i + 3)
            const style = `left: ${from}; width: calc(${to} - ${from}); background: ${COLOURS[emotion]}`
            Object.assign(band, { className: `memo-band${i === this.selected ? " memo-chosen" : ""}`, textContent: emotion, title, style })
            band.dataset.index = i
            Object.entries({ start: from, end: to }).forEach(([side, left], j) => {
                Object.assign(borders[j], { className: `memo-border memo-${side}`, style: `left: ${left}`, title })
                Object.assign(borders[j].dataset, { index: i, side })
            })
        })
    }

    drawSound(percent) {
        if (this.drawn !== this.sound) {
            const peaks = this.sound?.peaks ?? []
            const upper = peaks.map((peak, i) => `${i},${(1 - peak).toFixed(3)}`)
            const lower = peaks.map((peak, i) => `${i},${(1 + peak).toFixed(3)}`)
            this.wave.setAttribute("viewBox", `0 0 ${Math.max(1, peaks.length - 1)} 2`)
            this.path.setAttribute("d", peaks.length ? `M${[...upper, ...lower.reverse()].join("L")}Z` : "")
            this.drawn = this.sound
        }
        this.wave.style.width = this.sound ? percent(this.sound.length) : "0"
    }

    drawTools() {
        const chosen = this.segments[this.selected]
        const held = Boolean(this.locked || this.problem)
        this.emotions.disabled = held || !chosen
        this.emotions.value = chosen?.label ?? -1
        this.buttons.add.disabled = held
        this.buttons.remove.disabled = held || !chosen
        this.buttons.undo.disabled = Boolean(this.locked) || !this.past.length
        this.buttons.redo.disabled = Boolean(this.locked) || !this.future.length
        this.said.textContent = this.locked || this.problem || (chosen ? formatTimeline([chosen]) : `${this.note}\n${HINT}`.trim())
        this.said.classList.toggle("memo-problem", Boolean(this.problem) && !this.locked)
    }
}

function create(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties)
    made.append(...children)
    return made
}
