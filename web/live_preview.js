// While it samples, a node shows how each clip becomes. ComfyUI's front end keeps that preview when the node is done, instead of what
// the node shows in the end, and would take it for the video. So it goes.

import { app } from "../../scripts/app.js"

const SAMPLING = ["MemoSampler", "MemoSampleToFile", "MemoTalkingPortrait"]
const SHOWN_IN = ["$$canvas-image-preview", "$$comfy_animation_preview"]

app.registerExtension({
    name: "Memo.LivePreview",
    nodeCreated(node) {
        if (!SAMPLING.includes(node.comfyClass)) return
        const onExecuted = node.onExecuted
        node.onExecuted = function (output) {
            onExecuted?.apply(this, arguments)
            if (output?.images?.length) forgetPreview(this)
        }
    },
})

function forgetPreview(node) {
    const locator = node.graph.isRootGraph === false ? `${node.graph.id}:${node.id}` : String(node.id)
    shownByVue()?.revokePreviewsByLocatorId?.(locator)
    delete app.nodePreviewImages[locator]
    for (const widget of (node.widgets ?? []).filter(({ name }) => SHOWN_IN.includes(name))) {
        widget.onRemove?.()
        node.widgets.splice(node.widgets.indexOf(widget), 1)
    }
    node.preview = node.images = node.imgs = undefined // what it shows is taken up again at the next drawing
    node.graph.setDirtyCanvas(true)
}

// Nodes 2.0 draws what a store of the front end holds, which no extension is given; undefined in a front end without it.
function shownByVue() {
    return document.getElementById("vue-app")?.__vue_app__?.config.globalProperties.$pinia?._s.get("nodeOutput")
}
