// Emotion over time as a text, such as `0-3 neutral, 3-7.5 happy, 7.5- sad`: the same grammar, with the same sentences, as
// memo_modules/audio/timeline.py. tests/browser/test_timeline_grammar.py holds the two together.

export const EMOTIONS = ["angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown"]
export const EXAMPLE = "0-3 neutral, 3-7.5 happy, 7.5- sad"

const TIME = /^(?:([0-9]{1,3}):([0-5]?[0-9]):([0-5]?[0-9])|([0-9]{1,3}):([0-5]?[0-9])|([0-9]{1,6}))(?:\.([0-9]{1,3}))?$/
const SHOWN = 40

// {start, end, label}: milliseconds, end null at the end of the audio, label an index into EMOTIONS. Ordered by time; throws
// an Error with a sentence for the user.
export function parseTimeline(text) {
    const parts = text.replace(/[–—]/g, "-").split(/[,;\n]/).map(strip).filter(Boolean)
    const segments = parts.map(parseSegment).sort((one, other) => one.start - other.start)
    segments.forEach((segment, i) => {
        const following = segments[i + 1]
        if (!following) return
        if (segment.start === following.start || (segment.end ?? 0) > following.start)
            throw new Error(`timeline: "${formatSegment(segment)}" and "${formatSegment(following)}" overlap. Move a border or remove one of them.`)
        segment.end ??= following.start
    })
    return segments
}

export function formatTimeline(segments) {
    return segments.map(formatSegment).join(", ")
}

export function formatTime(milliseconds) {
    const seconds = Math.floor(milliseconds / 1000)
    const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)]
    const two = number => String(number).padStart(2, "0")
    let text = String(seconds)
    if (minutes) text = `${minutes}:${two(seconds % 60)}`
    if (hours) text = `${hours}:${two(minutes % 60)}:${two(seconds % 60)}`
    const decimals = String(milliseconds % 1000).padStart(3, "0").replace(/0+$/, "")
    return decimals ? `${text}.${decimals}` : text
}

function formatSegment({ start, end, label }) {
    return `${formatTime(start)}-${end === null ? "" : formatTime(end)} ${EMOTIONS[label]}`
}

function parseSegment(text) {
    const dash = text.indexOf("-")
    if (dash < 0) throw new Error(`timeline: ${quoted(text)} needs times and an emotion, such as ${EXAMPLE}.`)
    const [begin, rest] = [strip(text.slice(0, dash)), strip(text.slice(dash + 1))]
    const end = rest.match(/^[0-9:.-]*/)[0]
    const word = strip(rest.slice(end.length))
    if (!begin || end.startsWith("-"))
        throw new Error(`timeline: ${quoted(text)} has a negative time. Times count from 0, where the audio begins.`)
    const start = parseTime(begin, text)
    const stop = end ? parseTime(end, text) : null
    if (!word) throw new Error(`timeline: ${quoted(text)} has no emotion. Add one of ${EMOTIONS.join(", ")}; decimals take a point, as in 3.5.`)
    const label = EMOTIONS.indexOf(word.toLowerCase())
    if (label < 0) {
        const emotion = nearest([...word.toLowerCase()].slice(0, SHOWN))
        const hint = emotion ? `Did you mean ${emotion}? ` : ""
        throw new Error(`timeline: ${quoted(word)} in ${quoted(text)} is not an emotion. ${hint}There are ${EMOTIONS.join(", ")}.`)
    }
    if (stop !== null && stop <= start) throw new Error(`timeline: ${quoted(text)} must end later than it begins.`)
    return { start, end: stop, label }
}

function parseTime(text, segment) {
    const found = text.match(TIME)
    if (!found) {
        throw new Error(
            `timeline: ${quoted(text)} in ${quoted(segment)} is not a time. Write seconds, with three decimals at most (7.5), ` +
                "or minutes and seconds (1:07.5).",
        )
    }
    const [hours, minutes, seconds, shortMinutes, shortSeconds, plain] = found.slice(1, 7).map(part => Number(part ?? 0))
    return (hours * 3600 + (minutes + shortMinutes) * 60 + seconds + shortSeconds + plain) * 1000 + Number((found[7] ?? "").padEnd(3, "0"))
}

// Only these count as blanks: what else does differs between languages.
function strip(text) {
    return text.replace(/^[ \t\r\u00a0]+|[ \t\r\u00a0]+$/g, "")
}

function quoted(text) {
    const letters = [...text]
    return letters.length > SHOWN ? `"${printable(letters.slice(0, SHOWN).join(""))}…"` : `"${printable(text)}"`
}

// control characters and half an emoji as Python writes them
function printable(text) {
    return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]/gu, letter => {
        if (letter === "\r") return "\\r"
        const code = letter.codePointAt(0).toString(16)
        return code.length > 2 ? `\\u${code}` : `\\x${code.padStart(2, "0")}`
    })
}

function nearest(letters) {
    const distances = EMOTIONS.map(emotion => distance(letters, emotion))
    const least = Math.min(...distances)
    if (least <= 2) return EMOTIONS[distances.indexOf(least)]
    return EMOTIONS.find(emotion => emotion.slice(0, 3) === letters.slice(0, 3).join(""))
}

function distance(letters, emotion) {
    let row = Array.from({ length: emotion.length + 1 }, (_, j) => j)
    letters.forEach((letter, i) => {
        const above = row
        row = [i + 1]
        for (let j = 1; j <= emotion.length; j++)
            row.push(Math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter !== emotion[j - 1])))
    })
    return row[emotion.length]
}
