// ComfyUI puts our nodes into the places of those of ComfyUI-IF_MemoAvatar (nodes/replacements.py), with the cables that have a
// counterpart. The others would hang on at outputs that are another thing now, and be refused at Run: they are taken away.

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
    const ofNode = [...graph.links.values()].filter(link => link.origin_id === node.id || link.target_id === node.id)
    ofNode.filter(link => !isWhole(graph, link)).forEach(link => remove(graph, link))
    node.setSize(node.computeSize().map((least, side) => Math.max(least, node.size[side])))
    graph.setDirtyCanvas(true, true)
}

function isWhole(graph, link) {
    const from = graph.getNodeById(link.origin_id)?.outputs?.[link.origin_slot]
    const to = graph.getNodeById(link.target_id)?.inputs?.[link.target_slot]
    return from?.links?.includes(link.id) && to?.link === link.id
}

function remove(graph, link) {
    const target = graph.getNodeById(link.target_id)
    // a node whose pack is missing is saved as it was loaded
    const inputs = [...(target?.inputs ?? []), ...(target?.last_serialization?.inputs ?? [])]
    for (const input of inputs) if (input.link === link.id) input.link = null
    graph.links.delete(link.id)
}
