// Draws a timeline over its sound and lets it be changed with the mouse and the keyboard. The text is the only state:
// whatever is done here writes it, and whatever is written there is drawn.

import { addAt, drawBetween, HAPPY, moveBorder, moveSegment, SHORTEST, snapped } from "./timeline_edits.js"
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
const LAST = 0.95 // of the ruler: a number in the middle of what comes after it would be cut off
const MOST_SAID = 64 // pixels: what is longer is scrolled
const BETWEEN = 16
const LENGTH_WITHOUT_SOUND = 10000
const MOVED = 4 // pixels from which on a press is a drag
const CLOSEST = 64 // times

export class TimelineEditor {
    // write: gets each new text. words: of words.js.
    constructor(write, words) {
        this.write = write
        this.words = words
        this.mood = HAPPY // of the next new segment: what was chosen last
        this.zoom = 1
        this.at = 0 // where the playhead is
        this.text = null
        this.segments = []
        this.selected = -1
        this.past = []
        this.future = []
        this.sound = null // {length: milliseconds, peaks: 0 to 1 over time, url}
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

    // note: why there is none, to be said after what else is said; empty where none is expected.
    showSound(sound, note) {
        this.stop()
        this.at = 0
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
        const { segments, added } = addAt(this.segments, time, this.length, this.mood)
        this.change(segments, added)
    }

    remove() {
        if (this.selected >= 0 && !this.locked) this.change(this.segments.toSpliced(this.selected, 1), -1)
    }

    choose(label) {
        this.mood = label
        if (this.segments[this.selected]) this.change(this.segments.with(this.selected, { ...this.segments[this.selected], label }), this.selected)
    }

    // Moves the "start" or the "end" of the chosen segment, or all of it, by one step of the keyboard.
    nudge(what, step) {
        const chosen = this.segments[this.selected]
        if (!chosen || this.locked) return
        const { segments, selected, length } = this
        const time = snapped(((what === "end" ? chosen.end : chosen.start) ?? length) + step * SHORTEST)
        const moved = what === "all" ? moveSegment(segments, selected, time, length) : moveBorder(segments, selected, what, time, length)
        this.change(moved, selected)
    }

    zoomTo(times) {
        this.zoom = Math.max(1, Math.min(CLOSEST, times))
        this.track.style.width = `${100 * this.zoom}%`
        this.draw()
        this.seek(this.segments[this.selected]?.start ?? this.at)
    }

    // Scrolls so that a time is seen.
    seek(time) {
        const { frame } = this
        const left = (time / this.length) * frame.scrollWidth
        if (left < frame.scrollLeft || left > frame.scrollLeft + frame.clientWidth) frame.scrollLeft = left - frame.clientWidth / 4
    }

    play() {
        if (this.playing) return this.stop()
        if (!this.sound?.url) return
        this.playing = new Audio(this.sound.url)
        this.playing.currentTime = (this.at >= this.sound.length ? 0 : this.at) / 1000
        this.playing.addEventListener("ended", () => this.stop())
        this.playing.play().catch(() => this.stop())
        const follow = () => {
            if (!this.playing) return
            this.at = this.playing.currentTime * 1000
            this.drawHead()
            this.seek(this.at)
            requestAnimationFrame(follow)
        }
        follow()
        this.drawTools()
    }

    stop() {
        this.playing?.pause()
        this.playing = null
        if (this.buttons) this.drawTools()
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
        return this.frame.offsetHeight + this.tools.offsetHeight + Math.min(this.said.scrollHeight, MOST_SAID) + BETWEEN
    }

    build() {
        const { words } = this
        const button = (name, action) => {
            const [textContent, title] = words[name]
            const made = create("button", { type: "button", textContent, title, ariaLabel: title })
            made.dataset.does = name
            made.addEventListener("click", () => (action(), this.keys.focus({ preventScroll: true })))
            return made
        }
        this.wave = document.createElementNS("http://www.w3.org/2000/svg", "svg")
        this.wave.setAttribute("preserveAspectRatio", "none")
        this.path = this.wave.appendChild(document.createElementNS(this.wave.namespaceURI, "path"))
        this.bands = create("div", { className: "memo-bands" })
        this.ruler = create("div", { className: "memo-ruler" })
        this.head = create("div", { className: "memo-head" })
        this.track = create("div", { className: "memo-track" }, this.wave, this.bands, this.ruler, this.head)
        this.frame = create("div", { className: "memo-frame", title: words.keys }, this.track)
        // an input, because ComfyUI leaves undo to those; of the one kind that it does not think holds a text to be copied: the node is
        this.keys = create("input", { className: "memo-keys", type: "search", readOnly: true, ariaLabel: `${words.editor}. ${words.hint} ${words.keys}` })
        const named = emotion => (words.emotions[emotion] && words.emotions[emotion] !== emotion ? `${emotion} (${words.emotions[emotion]})` : emotion)
        const options = EMOTIONS.map((emotion, label) => create("option", { value: label, textContent: named(emotion) }))
        this.emotions = create("select", { title: words.emotion, ariaLabel: words.emotion }, ...options)
        this.emotions.addEventListener("change", () => (this.choose(Number(this.emotions.value)), this.keys.focus({ preventScroll: true })))
        this.buttons = {
            play: button("play", () => this.play()),
            add: button("add", () => this.add()),
            remove: button("remove", () => this.remove()),
            undo: button("undo", () => this.undo()),
            redo: button("redo", () => this.redo()),
            further: button("further", () => this.zoomTo(this.zoom / 2)),
            closer: button("closer", () => this.zoomTo(this.zoom * 2)),
        }
        this.tools = create("div", { className: "memo-tools", role: "toolbar", ariaLabel: words.editor }, this.emotions, ...Object.values(this.buttons))
        this.said = create("div", { className: "memo-said", role: "status" })
        this.element = create("div", { className: "memo-timeline" }, this.keys, this.frame, this.tools, this.said)
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
        const time = this.timeAt(event)
        this.selected = index === undefined ? -1 : Number(index)
        if (!this.playing) this.at = Math.max(0, Math.min(time, this.length))
        if (!this.locked && !this.problem) {
            this.track.setPointerCapture(event.pointerId)
            const { selected, segments, length } = this
            const hold = time - (segments[selected]?.start ?? 0)
            this.drag = { side, selected, segments, length, time, hold, x: event.clientX, begun: Boolean(side) }
        }
        this.draw()
    }

    move(event) {
        const { drag } = this
        if (!drag || (!drag.begun && Math.abs(event.clientX - drag.x) < MOVED)) return
        drag.begun = true
        const { side, selected, segments, length } = drag
        const time = this.timeAt(event)
        const at = place => snapped(place, event.shiftKey)
        if (side) this.segments = moveBorder(segments, selected, side, at(time), length)
        else if (selected >= 0) this.segments = moveSegment(segments, selected, at(time - drag.hold), length)
        else {
            const drawn = drawBetween(segments, at(drag.time), at(time), this.mood, length)
            this.segments = drawn.segments
            this.selected = drawn.added
        }
        this.draw()
    }

    release(keep) {
        if (!this.drag) return
        const { begun, segments, selected } = this.drag
        this.drag = null
        if (!begun) return // a click
        this.change(keep ? this.segments : segments, keep ? this.selected : selected)
    }

    pressKey(event) {
        const key = event.key.toLowerCase()
        const command = event.ctrlKey || event.metaKey
        if (command && (key === "y" || (key === "z" && event.shiftKey))) this.redo()
        else if (command && key === "z") this.undo()
        else if (key === "delete" || key === "backspace") this.remove()
        else if (key === " ") this.play()
        else if (!command && /^[1-9]$/.test(key)) this.locked || this.problem || this.choose(Number(key) - 1)
        else if (!command && (key === "+" || key === "-")) this.zoomTo(key === "+" ? this.zoom * 2 : this.zoom / 2)
        else if (key === "arrowleft" || key === "arrowright") {
            const step = key === "arrowleft" ? -1 : 1
            const what = event.altKey ? "end" : event.shiftKey ? "start" : command ? "all" : null
            if (what) this.nudge(what, step)
            else this.select(this.selected + step)
        }
        else return
        event.preventDefault()
        event.stopPropagation() // Delete would remove the node
    }

    select(index) {
        this.selected = Math.min(this.segments.length - 1, Math.max(0, index)) // -1 where there is none
        this.draw()
        if (this.segments[this.selected]) this.seek(this.segments[this.selected].start)
    }

    draw() {
        const { length } = this
        const percent = time => `${(100 * time) / length}%`
        this.drawSegments(percent)
        this.drawSound(percent)
        const step = TICKS.find(tick => length / tick <= MOST_TICKS * this.zoom) ?? length / MOST_TICKS
        const times = Array.from({ length: Math.floor(length / step) + 1 }, (_, i) => Math.round(i * step))
        const label = time => create("span", { textContent: formatTime(time), style: `left: ${percent(time)}` })
        this.ruler.replaceChildren(...times.map(label))
        this.ruler.lastChild.classList.toggle("memo-last", times.at(-1) > LAST * length)
        this.drawHead()
        this.drawTools()
    }

    drawHead() {
        this.head.style.display = this.sound ? "" : "none"
        this.head.style.left = `${(100 * this.at) / this.length}%`
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
        const [text, title] = this.words[this.playing ? "stop" : "play"]
        Object.assign(this.buttons.play, { textContent: text, title, ariaLabel: title, disabled: !this.sound?.url })
        this.emotions.disabled = held || !chosen
        this.emotions.value = chosen?.label ?? -1
        this.buttons.add.disabled = held
        this.buttons.remove.disabled = held || !chosen
        this.buttons.undo.disabled = Boolean(this.locked) || !this.past.length
        this.buttons.redo.disabled = Boolean(this.locked) || !this.future.length
        this.buttons.further.disabled = this.zoom <= 1
        this.buttons.closer.disabled = this.zoom >= CLOSEST
        const late = this.sound && chosen?.start >= this.sound.length ? `\n${this.words.after}` : ""
        const shown = chosen ? formatTimeline([chosen]) + late : `${this.note}\n${this.words.hint}`.trim()
        this.said.textContent = this.locked || this.problem || shown
        this.said.classList.toggle("memo-problem", Boolean(this.problem) && !this.locked)
    }
}

function create(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties)
    made.append(...children)
    return made
}
