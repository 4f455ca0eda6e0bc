"""Run by test_import.py in a process of its own: loads the pack as ComfyUI does, and prints what that changed.

Arguments: the pack's folder, ComfyUI's base directory.
"""

import asyncio
import json
import sys

pack, base = sys.argv[1:]
sys.dont_write_bytecode = True  # what Python keeps is nothing that the pack writes
sys.argv = ["main.py", "--cpu", "--base-directory", base]

import comfy.options

comfy.options.enable_args_parsing()

import utils.extra_config  # noqa: F401, I001  as main.py does before nodes.py puts a folder with a module utils in front of it
import nodes
from server import PromptServer

WATCHED = {"os.mkdir", "os.rename", "os.remove", "subprocess.Popen", "os.system"}
recording = False
events: list[str] = []


def audit(event: str, arguments: tuple) -> None:
    if recording and (event in WATCHED or event.startswith("socket.") or (event == "open" and arguments[1] not in (None, "r", "rb"))):
        events.append(f"{event} {arguments}")


async def load() -> None:
    global recording
    # what ComfyUI itself has made and loaded by the time that it comes to custom nodes
    PromptServer(asyncio.get_running_loop())
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
    sys.addaudithook(audit)
    path, modules = list(sys.path), set(sys.modules)
    recording = True
    loaded = await nodes.load_custom_node(pack)
    recording = False
    packages = sorted({name.partition(".")[0] for name in set(sys.modules) - modules if not name.startswith(pack.replace(".", "_x_"))})
    listed = sorted(name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("Memo"))
    found = {"loaded": loaded, "nodes": listed, "same_path": sys.path == path, "packages": packages, "events": events}
    print(json.dumps(found))


asyncio.run(load())
