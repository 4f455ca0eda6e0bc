// A colour for each kind of socket that is ours; ComfyUI draws those that it does not know, and their links, all alike.

import { app } from "../../scripts/app.js"

const COLOURS = {
    MEMO_MODELS: "#e8a33d",
    MEMO_MODEL: "#b57bee",
    MEMO_AUDIO_ENCODER: "#3fa7c4",
    MEMO_EMOTION_MODEL: "#f2785c",
    MEMO_VOCAL_SEPARATOR: "#8fb83f",
    MEMO_FACE_ANALYSIS: "#e0609f",
    MEMO_AUDIO: "#2fae94",
    MEMO_EMOTION: "#d4a017",
    MEMO_FACE: "#d14b70",
    MEMO_CROP: "#a1785c",
    MEMO_STATE: "#7080d8",
}

const AFTER_THE_PALETTE = 200

app.registerExtension({
    name: "Memo.SocketColours",
    setup() {
        // a palette forgets the colours of all sockets that it does not name
        app.ui.settings.addEventListener("Comfy.ColorPalette.change", () => setTimeout(paint, AFTER_THE_PALETTE))
    },
    nodeCreated({ comfyClass }) {
        if (comfyClass?.startsWith("Memo")) paint()
    },
})

function paint() {
    for (const [type, colour] of Object.entries(COLOURS)) {
        for (const colours of [app.canvas.default_connection_color_byType, LGraphCanvas.link_type_colors]) colours[type] ||= colour
        const { style } = document.documentElement // where Nodes 2.0 looks
        if (!style.getPropertyValue(`--color-datatype-${type}`)) style.setProperty(`--color-datatype-${type}`, colour)
    }
    app.canvas.setDirty(true, true)
}
