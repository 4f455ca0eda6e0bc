// Notes of our workflows that say so are written larger than the front end writes them: a workflow opens smaller than it is drawn.

import { app } from "../../scripts/app.js"

const SIZE = "memo_text_size", VARIABLE = "--comfy-textarea-font-size" // in pixels; what both renderers take it from
const style = document.createElement("style")

app.registerExtension({
    name: "Memo.Notes",
    setup() {
        document.head.append(style)
    },
    // an id says nothing in another graph
    afterConfigureGraph() {
        const notes = app.graph.nodes.filter(({ type, properties }) => type === "MarkdownNote" && properties[SIZE] > 0)
        style.textContent = notes.map(({ id, properties }) => `[data-node-id="${id}"] { ${VARIABLE}: ${Number(properties[SIZE])}px }`).join("\n")
        for (const { properties, widgets } of notes) widgets[0]?.element?.style.setProperty(VARIABLE, `${Number(properties[SIZE])}px`)
    },
})
