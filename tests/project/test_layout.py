"""The pack's rules that no other test would notice: what its files may hold, and which way their imports point."""

import ast
import re
import sys
from pathlib import Path, PurePosixPath

import pytest

from tools.comfyui_server import copy_pack

ROOT = Path(__file__).resolve().parents[2]
PACK = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py")), *sorted((ROOT / "memo_modules").rglob("*.py"))]
ADAPTER = PurePosixPath("nodes/comfy_adapter.py")
LAYERS = PurePosixPath("nodes/comfy_layers.py")
KNOW_COMFYUI = (ADAPTER, LAYERS, *map(PurePosixPath, ("nodes/comfy_sockets.py", "nodes/comfy_output.py", "nodes/comfy_lists.py")))
KNOW_DEVICES = (
    ADAPTER,
    LAYERS,
    PurePosixPath("memo_modules/sampler/streaming.py"),  # copies during the computation need streams of the device
    PurePosixPath("memo_modules/pipeline.py"),  # what the nodes leave to ComfyUI: how much room there is, which types are fast
    PurePosixPath("memo_modules/rendering/renderer.py"),  # gives back what a job that ran out of memory held
    PurePosixPath("memo_modules/rendering/workers.py"),  # one worker for each GPU of the machine
    PurePosixPath("memo_modules/models/kernels/autotune.py"),  # what a kernel takes is told by the device's own clock
)

COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "node_helpers", "server"}
HEAVY = {"audio_separator", "av", "cv2", "diffusers", "insightface", "onnx", "onnxruntime", "ray", "soundfile", "torchaudio", "transformers"}
# The registry refuses packages that run programs or code.
FORBIDDEN_CALLS = {"print", "eval", "exec", "os.system"}
FORBIDDEN_NAMES = {"sys.path", "subprocess"}
WEB = ("routes", "aiohttp", "add_routes")


def violations(file: PurePosixPath, source: str) -> list[str]:
    """What the pack's rules object to in a file at ``file`` below the root."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
            found.append(f"{ast.unparse(node.func)} in line {node.lineno}")
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in FORBIDDEN_NAMES:
            found.append(f"{ast.unparse(node)} in line {node.lineno}")
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node).rsplit(".", 1)[-1] in WEB:
            found.append(f"{ast.unparse(node)} in line {node.lineno}: the pack answers no requests of its own")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"bare except in line {node.lineno}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.cuda" and file not in KNOW_DEVICES:
            found.append(f"torch.cuda in line {node.lineno}: only {', '.join(map(str, KNOW_DEVICES))} know devices")
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [f"{problem} in line {node.lineno}" for problem in _import_problems(file, node, at_top=node in tree.body)]
    return found


def _import_problems(file, node, at_top):
    for name, relative in _imported(file, node):
        package = name.split(".")[0]
        if name.endswith("*"):
            yield f"star import of {name}"
        if not relative and package not in sys.stdlib_module_names and (ROOT / package).exists():
            yield f"import of the pack's own {name} by its absolute name"
        if package in HEAVY and not relative and at_top:
            yield f"{package} imported with the module, not when used"
        if file.parts[0] == "memo_modules" and (package in COMFYUI or (relative and package != "memo_modules")):
            yield f"the library imports {name}"
        if file.parts[:2] == ("memo_modules", "models") and relative and not _within_models(name):
            yield f"a network imports {name}"
        if file.parts[0] == "nodes" and file not in KNOW_COMFYUI and package in COMFYUI - {"comfy_api"} and not relative:
            yield f"{name} imported outside {', '.join(map(str, KNOW_COMFYUI))}"


def _within_models(name):
    return name.startswith(("memo_modules.models", "memo_modules.types", "memo_modules.errors", "memo_modules.words"))


def _imported(file, node):
    """(dotted name of each thing imported, whether the import is relative); names of the pack count from its root."""
    if isinstance(node, ast.Import):
        return [(alias.name, False) for alias in node.names]
    above = file.parts[: -node.level] if node.level else ()
    base = [*above, *([node.module] if node.module else [])]
    return [(".".join([*base, alias.name]), node.level > 0) for alias in node.names]


@pytest.mark.parametrize("path", PACK, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pack_file_keeps_the_rules(path):
    assert violations(PurePosixPath(path.relative_to(ROOT).as_posix()), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("nodes/a.py", "print(1)"),
        ("nodes/a.py", "try:\n    pass\nexcept:\n    pass"),
        ("nodes/a.py", "import sys\nsys.path.append('x')"),
        ("nodes/a.py", "from torch import *"),
        ("nodes/comfy_output.py", "def f(app):\n    return app.routes"),
        ("nodes/a.py", "import subprocess\nsubprocess.run([])"),
        ("nodes/a.py", "import comfy.utils"),
        ("nodes/a.py", "def f():\n    from folder_paths import models_dir"),
        ("nodes/a.py", "import torch\ntorch.cuda.empty_cache()"),
        ("nodes/a.py", "from memo_modules import clips"),
        ("memo_modules/a.py", "from ..nodes import types"),
        ("memo_modules/a.py", "import comfy.ops"),
        ("memo_modules/a.py", "from comfy_api.latest import io"),
        ("memo_modules/a.py", "import diffusers"),
        ("memo_modules/audio/a.py", "from ...nodes.types import MemoModel"),
        ("memo_modules/models/a.py", "from ..clips import ceil_div"),
        ("memo_modules/models/a.py", "from .. import checkpoints"),
    ],
)
def test_rules_catch(file, source):
    assert len(violations(PurePosixPath(file), source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("nodes/comfy_adapter.py", "import comfy.utils\nimport folder_paths\nimport torch\ntorch.cuda.is_available()"),
        ("nodes/a.py", "from comfy_api.latest import io\nfrom . import comfy_adapter\nfrom ..memo_modules import clips"),
        ("memo_modules/a.py", "def f():\n    import diffusers\n"),
        ("memo_modules/models/a.py", "from .layers import Layers\nfrom ..types import Face\nfrom ..errors import CheckpointError"),
    ],
)
def test_rules_allow(file, source):
    assert violations(PurePosixPath(file), source) == []


def test_the_scripts_that_are_published_run_no_programs(tmp_path):
    copy_pack(tmp_path / "pack")
    scripts = tmp_path / "pack" / "scripts"
    published = sorted(scripts.glob("**/*.py"))
    assert [path.name for path in published] == [
        "__init__.py",
        "bootstrap.py",
        "convert.py",
        "distil.py",
        "download.py",
        "entry.py",
        "prepare_data.py",
        "render.py",
        "train.py",
    ]
    assert (scripts / "configs" / "finetune.yaml").is_file() and (tmp_path / "pack" / "requirements-training.txt").is_file()
    for path in published:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)}
        assert not names & {"subprocess", "os.system", "eval", "exec"}


def test_torch_cuda_stays_out_of_scripts_and_tools():
    programs = (path for folder in ("scripts", "tools") for path in (ROOT / folder).rglob("*.py"))
    users = {path.relative_to(ROOT).as_posix() for path in programs if "torch.cuda" in path.read_text(encoding="utf-8")}
    assert users <= {"tools/benchmarking/device.py"}


def test_pyproject_and_requirements_agree():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    assert _listed_in_pyproject("dependencies") == requirements


def test_the_transformers_that_is_there_decides_which_diffusers_comes():
    """Installers settle first what is named first: the other way round they raise transformers 4 to fit the newest diffusers."""
    assert [requirement.split(">")[0] for requirement in _listed_in_pyproject("dependencies")[:2]] == ["transformers", "diffusers"]


def test_requirements_leave_out_what_comes_with_comfyui_or_must_not_be_doubled():
    names = {requirement.split(">")[0].split(";")[0] for requirement in _listed_in_pyproject("dependencies")}
    never = {"torch", "torchvision", "torchaudio", "numpy", "xformers", "insightface", "audio-separator", "onnx", "onnxruntime",
             "onnxruntime-gpu", "opencv-python", "opencv-python-headless", "opencv-contrib-python"}  # fmt: skip
    assert names and not names & never


def _listed_in_pyproject(key):
    """The strings of a list in pyproject.toml; Python 3.10 has no reader for the format."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.partition(f"\n{key} = [\n")[2].partition("\n]")[0]
    return [line.strip().rstrip(",").strip('"').replace("'", '"') for line in block.splitlines()]


def test_no_test_imports_another():
    """What several need is in tests/helpers: a test that is imported is collected under two names, and moved with care."""
    tests = [path for path in (ROOT / "tests").rglob("*.py") if "helpers" not in path.parts]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in tests}
    named = [
        (path.name, ast.unparse(node)) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert [(name, line) for name, line in named if re.search(r"\btests(?!\.helpers\b)|\btest_\w+", line)] == []
