// After a page was loaded anew, ComfyUI sends again what it has kept for nodes at the end of a graph, and for no others: what a
// sampler or a detector had shown would stay away. Its history still has it.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

const LOOKED_THROUGH = 64 // runs

app.registerExtension({
    name: "Memo.CachedPictures",
    setup() {
        const kept = new Map()
        api.addEventListener("execution_cached", ({ detail }) => kept.set(detail.prompt_id, detail.nodes))
        api.addEventListener("execution_success", async ({ detail: { prompt_id } }) => {
            const bare = (kept.get(prompt_id) ?? []).filter(isBare)
            kept.delete(prompt_id)
            if (!bare.length) return
            const history = await (await api.fetchApi(`/history?max_items=${LOOKED_THROUGH}`)).json()
            const now = history[prompt_id]?.prompt[2]
            for (const id of now ? bare : []) {
                const wanted = made(now, id)
                const before = Object.values(history).findLast(({ outputs, prompt }) => outputs[id] && made(prompt[2], id) === wanted)
                if (before) api.dispatchCustomEvent("executed", { node: id, display_node: id, prompt_id, output: before.outputs[id] })
            }
        })
    },
})

function isBare(id) {
    const node = app.graph.getNodeById(id)
    return node?.comfyClass?.startsWith("Memo") && !app.nodeOutputs[id]
}

// All that an output depends on, as a text: the node and every node before it.
function made(prompt, id, seen = {}) {
    if (prompt[id] && !seen[id]) {
        seen[id] = [prompt[id].class_type, prompt[id].inputs]
        for (const value of Object.values(prompt[id].inputs)) if (Array.isArray(value)) made(prompt, value[0], seen)
    }
    return JSON.stringify(Object.entries(seen).sort())
}
