"""What saved workflows depend on, tests/node_schemas.json, and the English that translations start from, locales/en."""

from collections.abc import Iterator

INPUT_FACTS = ("default", "min", "max", "step", "options", "control_after_generate")


def own_nodes(object_info: dict[str, dict]) -> dict[str, dict]:
    """The pack's nodes in ComfyUI's /object_info, by id."""
    return {name: node for name, node in sorted(object_info.items()) if node["category"].split("/")[0] == "MEMO"}


def inputs_of(node: dict) -> Iterator[tuple[str, str, dict, bool]]:
    """(name, type, options, whether optional) of each input, in order."""
    for group in ("required", "optional"):
        for name, (kind, options) in node["input"].get(group, {}).items():
            yield name, kind, options, group == "optional"


def schemas(object_info: dict[str, dict]) -> dict[str, dict]:
    """Inputs and outputs of every node, by its id."""
    return {name: _schema(node) for name, node in own_nodes(object_info).items()}


def _schema(node: dict) -> dict:
    lists_files = node["category"] == "MEMO/loaders"
    inputs = []
    for name, kind, options, optional in inputs_of(node):
        facts = {fact: options[fact] for fact in INPUT_FACTS if fact in options and not (fact == "options" and lists_files)}
        inputs.append({"name": name, "type": kind, "optional": optional, **facts})
    outputs = [{"name": name, "type": kind} for name, kind in zip(node["output_name"], node["output"], strict=True)]
    return {"display_name": node["display_name"], "category": node["category"], "inputs": inputs, "outputs": outputs}


def english(object_info: dict[str, dict]) -> dict[str, dict]:
    """Content of locales/en, by file."""
    ours = own_nodes(object_info)
    cores = {part for name, node in object_info.items() if name not in ours for part in node["category"].split("/")}
    categories = {part for node in ours.values() for part in node["category"].split("/")[1:]} - cores  # those of core are in the front end
    return {
        "nodeDefs.json": {name: _english(node) for name, node in ours.items()},
        "main.json": {"nodeCategories": {part: part for part in sorted(categories)}},
    }


def _english(node: dict) -> dict:
    outputs = enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {name: {"name": name, "tooltip": options["tooltip"]} for name, _, options, _ in inputs_of(node)},
        "outputs": {str(index): {"name": name, "tooltip": tooltip} for index, (name, tooltip) in outputs},
    }
