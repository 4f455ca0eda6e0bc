"""Run by test_vae_files.py in a process of its own: loads every VAE in a folder as MEMO Load VAE does.

Arguments: the pack's folder, the folder. Prints in JSON of each the error's type and text, or "loaded", and the megabytes
by which memory grew at most.
"""

import importlib.util
import json
import resource
import sys
from pathlib import Path

pack, folder = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]

import comfy.options

comfy.options.enable_args_parsing()

import utils.extra_config  # noqa: F401, I001 - as main.py does before nodes.py puts a folder with a module utils in front of it
import comfy.sd

spec = importlib.util.spec_from_file_location("pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])

from pack.nodes import comfy_sockets

found = {}
for place in sorted(Path(folder).iterdir()):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        vae = comfy_sockets.load_vae(place)
        said = ["loaded", comfy_sockets.CoreVAE(vae).digest()]
    except Exception as error:
        said = [type(error).__name__, str(error)]
    found[place.name] = [*said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]
print(json.dumps(found))
