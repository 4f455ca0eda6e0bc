// ComfyUI puts our nodes into the places of those of ComfyUI-IF_MemoAvatar (nodes/replacements.py). The cable of the models goes
// on. Others have no counterpart: they would hang on at outputs that are another thing now, and be refused at Run, and go.

import { app } from "../../scripts/app.js"

const REPLACING = ["MemoLoadAll", "MemoTalkingPortrait"]

app.registerExtension({
    name: "Memo.ReplacedNodes",
    nodeCreated(node) {
        // it has its place and its cables when the replacement, which makes it, has run to its end
        if (REPLACING.includes(node.comfyClass)) setTimeout(() => tidy(node))
    },
})

function tidy(node) {
    const { graph } = node
    if (!graph) return
    for (const link of [...graph.links.values()]) {
        if (link.origin_id !== node.id && link.target_id !== node.id) continue
        if (![link.origin_id, link.target_id].every(id => graph.getNodeById(id))) continue // the border of a subgraph
        const from = graph.getNodeById(link.origin_id)?.outputs?.[link.origin_slot]
        const to = graph.getNodeById(link.target_id)?.inputs?.[link.target_slot]
        if (from?.links?.includes(link.id) && to?.link === link.id) continue
        if (to?.link === link.id && from?.type === "MEMO_MODELS" && ["models", "reference_net"].includes(to.name))
            from.links = [...(from.links ?? []), link.id]
        else remove(graph, link)
    }
    node.setSize(node.computeSize().map((least, side) => Math.max(least, node.size[side])))
    graph.setDirtyCanvas(true, true)
}

function remove(graph, link) {
    const [origin, target] = [link.origin_id, link.target_id].map(id => graph.getNodeById(id))
    // a node whose pack is missing is saved as it was loaded
    for (const node of [origin, origin?.last_serialization])
        for (const output of node?.outputs ?? []) output.links = output.links?.filter(id => id !== link.id) ?? null
    for (const node of [target, target?.last_serialization])
        for (const input of node?.inputs ?? []) if (input.link === link.id) input.link = null
    graph.links.delete(link.id)
}
