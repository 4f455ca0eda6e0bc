// A video that was stopped continues when the same workflow is queued again, which a new seed at every run would prevent.

import { app } from "../../scripts/app.js"

app.registerExtension({
    name: "Memo.FixedSeed",
    nodeCreated(node) {
        if (node.comfyClass !== "MemoSampleToFile") return
        // the values of a saved workflow come later
        const control = node.widgets.find(({ name }) => name === "control_after_generate")
        if (control) control.value = "fixed"
    },
})
