// What can be done to a timeline by hand. Segments are those of timeline_grammar.js and are never changed, only replaced;
// times are milliseconds, `length` is where the ruler ends.

export const SHORTEST = 100
export const HAPPY = 3 // a gap is neutral or as heard already

export function snapped(time, fine) {
    const step = fine ? 10 : SHORTEST
    return Math.max(0, Math.round(time / step) * step)
}

// Drags the "start" or the "end" of segment i to a time. A neighbour that touches goes along, no segment gets lost, and an end
// at the end of the ruler is open.
export function moveBorder(segments, i, side, time, length) {
    const moved = segments.map(segment => ({ ...segment }))
    const atEnd = side === "end"
    const [before, after] = atEnd ? [moved[i], moved[i + 1]] : [moved[i - 1], moved[i]]
    const touching = before && after && before.end === after.start
    const lowest = before ? (touching || atEnd ? before.start + SHORTEST : before.end) : 0
    const highest = after ? (touching || !atEnd ? (after.end ?? length) - SHORTEST : after.start) : length
    if (highest < lowest) return segments
    const place = Math.max(lowest, Math.min(highest, time))
    if (before && (touching || atEnd)) before.end = after || place < length ? place : null
    if (after && (touching || !atEnd)) after.start = place
    return moved
}

// Moves segment i as a whole so that it begins at a time, as far as its neighbours let it.
export function moveSegment(segments, i, time, length) {
    const { start, end, label } = segments[i]
    const duration = (end ?? length) - start
    const lowest = i ? segments[i - 1].end : 0
    const highest = (segments[i + 1]?.start ?? length) - duration
    if (highest < lowest) return segments
    const place = Math.max(lowest, Math.min(highest, time))
    const open = end === null && place + duration >= length
    return segments.with(i, { start: place, end: open ? null : place + duration, label })
}

// A new segment between two times, in the gap in which the first of them lies; gives back the segments and which one is new, -1
// where there is no gap, or not enough of it.
export function drawBetween(segments, one, other, label, length) {
    const next = segments.findIndex(({ start, end }) => end === null || one < end)
    const i = next < 0 ? segments.length : next
    if (next >= 0 && segments[i].start <= one) return { segments, added: -1 }
    const [lowest, highest] = [i ? segments[i - 1].end : 0, segments[i]?.start ?? length]
    const [start, end] = [Math.max(lowest, Math.min(one, other)), Math.min(highest, Math.max(one, other))]
    if (end - start < SHORTEST) return { segments, added: -1 }
    const segment = { start, end: i === segments.length && end >= length ? null : end, label }
    return { segments: segments.toSpliced(i, 0, segment), added: i }
}

// Splits the segment at a time in two, or begins a new one in a gap; gives back the segments and which one is new.
export function addAt(segments, time, length, label = HAPPY) {
    const i = segments.findIndex(({ start, end }) => start <= time && (end === null || time < end))
    return i < 0 ? fillGap(segments, time, length, label) : split(segments, i, time, length)
}

function split(segments, i, time, length) {
    const { start, end, label } = segments[i]
    if (time - start < SHORTEST || (end ?? length) - time < SHORTEST) return { segments, added: i }
    return { segments: segments.toSpliced(i, 1, { start, end: time, label }, { start: time, end, label }), added: i + 1 }
}

function fillGap(segments, time, length, label) {
    const next = segments.findIndex(({ start }) => start > time)
    const i = next < 0 ? segments.length : next
    const stop = Math.min(time + snapped(Math.max(length / 5, 1000)), next < 0 ? length : segments[next].start)
    if (stop - time < SHORTEST) return { segments, added: -1 }
    const segment = { start: time, end: next < 0 && stop === length ? null : stop, label }
    return { segments: segments.toSpliced(i, 0, segment), added: i }
}
