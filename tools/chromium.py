"""Chromium without a window, driven over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol)."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",  # a microphone that beeps, and nobody asks about it
)  # fmt: skip
_START_TIMEOUT = _ANSWER_TIMEOUT = 60


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class PageError(Exception):
    """The page's script raised an error, or something did not happen in time."""


class Chromium:
    """One page of a Chromium; a context manager. ``errors``: what the page's console called an error, and exceptions."""

    def __init__(self, executable: str, profile: Path, size: tuple[int, int] = (1600, 900)):
        self.executable, self.profile, self.size = executable, profile, size
        self.errors: list[str] = []

    def __enter__(self):
        command = [self.executable, *ARGUMENTS, f"--user-data-dir={self.profile}", "--window-size={},{}".format(*self.size), "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._loop = asyncio.new_event_loop()
        self._ids = itertools.count(1)
        try:
            self._loop.run_until_complete(self._connect())
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            self.resize(self.size)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._loop.run_until_complete(self._session.close())
        self._loop.close()
        self._process.terminate()
        self._process.wait(timeout=20)

    def call(self, method: str, **parameters) -> dict:
        """The result of a method of the protocol; events that come before it are taken note of."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), _ANSWER_TIMEOUT))

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def resize(self, size: tuple[int, int]) -> None:
        """Show the page on a screen of another size (width, height)."""
        self.size = size
        self.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)

    def reload(self) -> None:
        """Press F5, and say that one wants to leave where the page asks."""
        self.call("Page.reload")
        time.sleep(1)  # in which it asks
        with suppress(PageError):
            self.call("Page.handleJavaScriptDialog", accept=True)

    def evaluate(self, script: str):
        """The value of a JavaScript expression, awaited when it is a promise. Raises PageError when it throws."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise PageError(_exception(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, script: str, timeout: float = 60):
        """The value of a JavaScript expression once it is true. Raises PageError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not (value := self.evaluate(script)):
            if time.monotonic() > deadline:
                raise PageError(f"still not so after {timeout} s: {script}")
            time.sleep(0.1)
        return value

    def click(self, x: float, y: float, button: str = "left") -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def drop(self, file: Path, x: float, y: float) -> None:
        """Drag a file from outside onto the page and let go of it there."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, file: Path) -> Path:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return file

    async def _connect(self) -> None:
        import aiohttp

        port_file, deadline = self.profile / "DevToolsActivePort", time.monotonic() + _START_TIMEOUT
        while not port_file.is_file() or "\n" not in port_file.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PageError(f"{self.executable} did not start")
            await asyncio.sleep(0.1)
        port = port_file.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
            [page] = [target for target in await answer.json(content_type=None) if target["type"] == "page"]
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)

    async def _call(self, method, parameters):
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async for message in self._socket:
            answer = json.loads(message.data)
            if answer.get("id") == number:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer["method"], answer["params"])
        raise PageError(f"{method}: Chromium closed the connection")

    def _note(self, event, data):
        if event == "Runtime.consoleAPICalled" and data["type"] == "error":
            self.errors.append(" ".join(str(part.get("value", part.get("description"))) for part in data["args"]))
        elif event == "Runtime.exceptionThrown":
            self.errors.append(_exception(data["exceptionDetails"]))
        elif event == "Log.entryAdded" and data["entry"]["level"] == "error":
            self.errors.append(f"{data['entry']['text']} {data['entry'].get('url', '')}")


def _exception(details: dict) -> str:
    return details.get("exception", {}).get("description", details["text"])
