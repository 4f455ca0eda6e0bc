// Nodes 2.0 hides a node's advanced inputs until its button is pressed; the canvas draws all of them, always. For our nodes it does as
// Nodes 2.0 does. What is linked or has another value than at first stays in sight, so that no workflow hides what it has set.

import { app } from "../../scripts/app.js"

const ALWAYS = "Comfy.Node.AlwaysShowAdvancedWidgets"

app.registerExtension({
    name: "Memo.AdvancedInputs",
    nodeCreated(node) {
        const advanced = node.comfyClass?.startsWith("Memo") ? (node.widgets ?? []).filter(({ options }) => options?.advanced) : []
        if (!advanced.length) return
        for (const widget of advanced) hideUnlessUsed(node, widget)
        const button = node.addWidget("button", "advanced", null, () => toggle(node, button), { canvasOnly: true, serialize: false })
        button.serialize = false
        button.label = label(node)
        node.setSize([node.size[0], node.computeSize()[1]])
    },
})

function hideUnlessUsed(node, widget) {
    const usual = widget.value
    const used = () => widget.value !== usual || node.inputs?.some(input => input.widget?.name === widget.name && input.link != null)
    const hidden = () => !(node.showAdvanced || app.extensionManager?.setting?.get(ALWAYS) || used())
    Object.defineProperty(widget, "hidden", { configurable: true, get: hidden, set() {} })
}

function toggle(node, button) {
    const before = node.computeSize()[1]
    node.showAdvanced = !node.showAdvanced
    button.label = label(node)
    const [width, height] = node.computeSize()
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1] + height - before, height)])
    node.setDirtyCanvas(true, true)
}

// In the words of Nodes 2.0, and the user's language.
function label(node) {
    const [key, english] = node.showAdvanced
        ? ["hideAdvancedInputsButton", "Hide advanced inputs"]
        : ["showAdvancedInputsButton", "Show advanced inputs"]
    const { $t, $te } = document.getElementById("vue-app")?.__vue_app__?.config.globalProperties ?? {}
    return $te?.(`rightSidePanel.${key}`) ? $t(`rightSidePanel.${key}`) : english
}
