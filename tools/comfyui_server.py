"""Starts a ComfyUI without a window, with this pack in it, and talks to it over HTTP."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACK = "ComfyUI-MEMO"
MODEL_FOLDERS = ("memo", "audio_encoders", "vae", "vae_approx")
_START_TIMEOUT = 300
_TEXT_EVENT = 3


class ServerError(Exception):
    """ComfyUI did not start, refused a prompt or failed in it; the message holds what it said."""


class ComfyUIServer:
    """A ComfyUI process in a base directory of its own; a context manager that gives a running server.

    comfyui: ComfyUI's folder. base: the base directory (models, input, output, custom_nodes), made if need be; the pack
    is copied into it as it would be published. models: a `models` folder to use in addition to the base directory's own.
    arguments: more arguments of ComfyUI's command line. environment: more variables. The log is written to ``base / "comfyui.log"``.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        models: Path | None = None,
        arguments: tuple[str, ...] = ("--cpu",),
        environment: dict[str, str] | None = None,
    ):
        self.comfyui = comfyui
        self.base = base
        self.models = models
        self.arguments = arguments
        self.environment = os.environ | (environment or {})
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.log_file = base / "comfyui.log"

    def __enter__(self):
        copy_pack(self.base / "custom_nodes" / PACK)
        command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        command += ["--base-directory", self.base, "--database-url", "sqlite:///:memory:", "--disable-api-nodes", *self.arguments]
        if self.models:
            command += ["--extra-model-paths-config", self._write_model_paths()]
        with self.log_file.open("wb") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, cwd=self.comfyui, env=self.environment, **streams)
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> dict:
        """The JSON answer to GET ``path``."""
        return self._request(urllib.request.Request(self.url + path))

    def post(self, path: str, body: dict) -> dict:
        """The JSON answer to POST ``path``, None when the answer is empty. Raises ServerError with what was refused."""
        data = json.dumps(body).encode()
        return self._request(urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}))

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def free(self) -> None:
        """Ask ComfyUI to unload its models and drop its cache."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def add_input(self, file: Path) -> str:
        """Put a picture or a sound among ComfyUI's input files; returns the name by which nodes load it."""
        folder = self.base / "input"
        folder.mkdir(exist_ok=True)
        return shutil.copy(file, folder / file.name).name

    def run(self, prompt: dict, on_event: Callable[[str, dict], None] = lambda kind, data: None, timeout: float = 600) -> dict:
        """Run a graph in API format to its end; returns {id of an output node: what it lists, files among them}.

        ``on_event`` gets each message of ComfyUI's websocket as it comes (kind, data), a preview picture as ("preview",
        {"message": bytes}), a sentence of a node as ("progress_text", {"node": id, "text": text}). Raises ServerError when the
        graph is refused, fails or is interrupted, and TimeoutError after ``timeout`` seconds.
        """
        return asyncio.run(asyncio.wait_for(self._run(prompt, on_event), timeout))

    async def _run(self, prompt, on_event):
        import aiohttp

        client, outputs = uuid.uuid4().hex, {}
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket:
            prompt_id = self.post("/prompt", {"prompt": prompt, "client_id": client})["prompt_id"]
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    on_event(*_binary_event(message.data))
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                kind, data = event["type"], event["data"]
                on_event(kind, data)
                if data.get("prompt_id") != prompt_id:
                    continue
                if kind in ("execution_error", "execution_interrupted"):
                    raise ServerError(f"{kind.replace('_', ' ')} in {data.get('node_type')}: {data.get('exception_message', '')}".strip())
                if kind == "executed":
                    outputs[data["node"]] = data["output"]
                if kind == "execution_success":
                    return outputs
        raise ServerError(f"ComfyUI closed the connection:\n{self.log[-4000:]}")

    def output_file(self, entry: dict) -> Path:
        """The file to which one entry of an output node's list refers."""
        return self.base / entry.get("type", "output") / entry.get("subfolder", "") / entry["filename"]

    def _request(self, request):
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise ServerError(f"{request.full_url}: {error.code} {error.read().decode(errors='replace')}") from None
        return json.loads(text) if text else None

    def _write_model_paths(self) -> Path:
        lines = ["memo_models:", f"  base_path: {json.dumps(str(self.models))}", *(f"  {name}: {name}" for name in MODEL_FOLDERS)]
        file = self.base / "extra_model_paths.yaml"
        file.write_text("\n".join(lines), encoding="utf-8")
        return file

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerError(f"ComfyUI ended with exit status {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise ServerError(f"ComfyUI did not answer within {_START_TIMEOUT} s:\n{self.log[-4000:]}")


def _binary_event(message: bytes) -> tuple[str, dict]:
    if int.from_bytes(message[:4], "big") != _TEXT_EVENT:
        return "preview", {"message": message}
    start = 8 + int.from_bytes(message[4:8], "big")
    return "progress_text", {"node": message[8:start].decode(), "text": message[start:].decode()}


def copy_pack(target: Path) -> None:
    """Copy the pack without the files that `.comfyignore` keeps out of the published package."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").split()
    ignored = [line.rstrip("/") for line in lines if not line.startswith("!")] + ["__pycache__"]
    kept = tuple(line.strip("!/") + "/" for line in lines if line.startswith("!"))

    def left_out(folder: str, names: list[str]) -> list[str]:
        paths = {name: (Path(folder) / name).relative_to(ROOT).as_posix() for name in names}
        rest = {name: path for name, path in paths.items() if not f"{path}/".startswith(kept)}
        return [name for name, path in rest.items() if any(fnmatch(path, line) or fnmatch(name, line) for line in ignored)]

    shutil.copytree(ROOT, target, ignore=left_out)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
