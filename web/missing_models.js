// Lists of models say which name is not on the disk, and how much Run would have to fetch for it with download switched on.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { wordsOf } from "./words.js"

const marked = new WeakSet() // widgets
const missing = {} // by class and input: names with their sizes, as the server has them (nodes/loaders.py)

app.registerExtension({
    name: "Memo.MissingModels",
    setup() {
        api.addEventListener("execution_success", async () => {
            const classes = new Set(app.graph.nodes.map(({ comfyClass }) => comfyClass).filter(type => missing[type]))
            const news = await Promise.all([...classes].map(async type => (await api.fetchApi(`/object_info/${type}`)).json()))
            if (classes.size) renew(Object.assign({}, ...news))
        })
    },
    beforeRegisterNodeDef(_, definition) {
        take(definition)
    },
    refreshComboInNodes: renew,
    nodeCreated: mark,
})

function renew(definitions) {
    for (const definition of Object.values(definitions)) take(definition)
    for (const node of app.graph.nodes) mark(node)
    app.graph.setDirtyCanvas(true, true)
}

function take({ name, input }) {
    if (!name?.startsWith("Memo")) return
    const inputs = Object.entries({ ...input?.required, ...input?.optional })
    const lacking = inputs.filter(([, [, options]]) => Object.keys(options?.missing ?? {}).length)
    delete missing[name]
    if (lacking.length) missing[name] = Object.fromEntries(lacking.map(([input, [, options]]) => [input, options.missing]))
}

function mark(node) {
    if (!node.comfyClass?.startsWith("Memo")) return
    for (const widget of node.widgets ?? []) {
        const sizes = missing[node.comfyClass]?.[widget.name]
        if (sizes) {
            widget.options.getOptionLabel = name => (sizes[name] ? `↓ ${name} (${said(sizes[name])})` : name)
            marked.add(widget)
        } else if (marked.delete(widget)) delete widget.options.getOptionLabel
    }
}

function said(size) {
    return wordsOf(app.ui.settings.getSettingValue("Comfy.Locale")).missing.replace("{size}", size)
}
