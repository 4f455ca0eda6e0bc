"""Downloads from a hub on this machine that fails in every way: a verified file comes, or a clear error, and never a wrong
file under the final name."""

import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path, PureWindowsPath

import pytest

from memo_modules.errors import DownloadError
from memo_modules.store import fetching
from memo_modules.store import hub as client
from tests.helpers.hub_server import Corrupt, Cut, HubServer, IgnoreRange, Silence, Slow, Status, Trickle

CHILD = Path(__file__).resolve().parents[1] / "helpers" / "fetch_child.py"
REPOSITORY = "owner/name"
WEIGHTS, CONFIG = "net/weights.safetensors", "net/config.json"
CONTENT = {WEIGHTS: random.Random(0).randbytes(1_000_000), CONFIG: b'{"layers": 2}\n'}
SHA256 = hashlib.sha256(CONTENT[WEIGHTS]).hexdigest()


def entry(path: str, **known) -> dict:
    """A file of the repository; nothing is known of it in advance but ``known``."""
    return {"repository": REPOSITORY, "revision": "main", "path": path, "target": path, "size": None, "sha256": None, "needed": True} | known


WEIGHTS_ALONE = (entry(WEIGHTS),)


@pytest.fixture
def hub(tmp_path):
    for name, content in CONTENT.items():
        file = tmp_path / "hub" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with HubServer({REPOSITORY: tmp_path / "hub"}) as server:
        yield server


@pytest.fixture
def models(tmp_path) -> Path:
    return tmp_path / "models"


def start(hub_url: str, models: Path, files=WEIGHTS_ALONE, environment=None, **options) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy") and not name.startswith("HF_")}
    home = models.with_name("hf_home")
    environment = clean | {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "HF_HUB_DOWNLOAD_TIMEOUT": "1"} | (environment or {})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, CHILD], env=environment, text=True, **pipes)
    child.stdin.write(json.dumps({"files": list(files), "root": str(models), **options}))
    child.stdin.close()
    child.stdin = None
    return child


def finish(child: subprocess.Popen) -> dict:
    output, log = child.communicate(timeout=60)
    assert child.returncode == 0, log
    return json.loads(output) | {"log": log}


def fetch(*arguments, **options) -> dict:
    return finish(start(*arguments, **options))


def has_come(models: Path) -> bool:
    return (models / WEIGHTS).read_bytes() == CONTENT[WEIGHTS]


def partial(models: Path) -> Path:
    [file] = (models / WEIGHTS).parent.glob(".downloads/*.partial")
    return file


def ranges(hub: HubServer) -> list[str | None]:
    """Range of each request for the content of the weights."""
    return [byte_range for method, path, byte_range in hub.requests if method == "GET" and path.startswith("/cdn/")]


def test_fresh(hub, models):
    result = fetch(hub.url, models, [entry(WEIGHTS), entry(CONFIG)])
    assert result["error"] is None and has_come(models) and (models / CONFIG).read_bytes() == CONTENT[CONFIG]
    total = sum(map(len, CONTENT.values()))
    done = [done for done, _ in result["progress"]]
    assert done == sorted(done) and len(done) > 10 and result["progress"][-1] == [total, total]
    assert not list(models.rglob("*.partial"))


def test_the_hash_is_learned_and_kept_beside_the_file(hub, models):
    fetch(hub.url, models)
    line = (models / WEIGHTS).with_name("weights.safetensors.sha256").read_text()
    assert line == f"{SHA256}  weights.safetensors\n"  # as `sha256sum -c` reads it


def test_a_known_hash_is_not_kept_again(hub, models):
    fetch(hub.url, models, [entry(WEIGHTS, sha256=SHA256, size=len(CONTENT[WEIGHTS]))])
    assert has_come(models) and not list(models.rglob("*.sha256"))


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_cut_connection_continues_where_it_was(hub, models, fraction, reset):
    hub.faults[WEIGHTS] = [Cut(fraction, reset=reset)]
    assert fetch(hub.url, models)["error"] is None and has_come(models)
    [whole, rest] = ranges(hub)
    assert whole is None and (rest == f"bytes={int(fraction * 1_000_000)}-" or reset)  # a reset also drops what was still on its way


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
def test_a_cancelled_download_continues_in_the_next_run(hub, models, fraction):
    size = int(fraction * 1_000_000)
    assert fetch(hub.url, models, cancel_at=size)["error"] == "Cancelled"
    came = partial(models).stat().st_size
    assert came >= size and not (models / WEIGHTS).exists()
    assert fetch(hub.url, models)["error"] is None and has_come(models)
    assert ranges(hub)[-1] == f"bytes={came}-" or came == 1_000_000


@pytest.mark.parametrize("fault", [Trickle("headers"), Silence(60), Slow(10_000)], ids=str)
def test_a_process_ends_while_a_server_keeps_it_waiting(hub, models, fault):
    """Nothing that was left behind by Cancel holds it, or fails in its log."""
    hub.faults[WEIGHTS] = [fault]
    started = time.monotonic()
    result = fetch(hub.url, models, cancel_after=0.5, environment={"HF_HUB_DOWNLOAD_TIMEOUT": "100"})
    assert result["error"] == "Cancelled" and result["seconds"] < 2.5 and "Traceback" not in result["log"]
    assert time.monotonic() - started < 50


def test_a_killed_process_leaves_a_part_to_go_on_from(hub, models):
    hub.faults[WEIGHTS] = [Slow(500_000)]
    child = start(hub.url, models)
    while not list(models.rglob("*.partial")) or partial(models).stat().st_size < 100_000:
        time.sleep(0.02)
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (models / WEIGHTS).exists()
    assert fetch(hub.url, models)["error"] is None and has_come(models)
    assert int(ranges(hub)[-1].removeprefix("bytes=").removesuffix("-")) >= 100_000


def test_a_server_that_ignores_ranges(hub, models):
    hub.faults[WEIGHTS] = [Cut(0.5), IgnoreRange()]
    assert fetch(hub.url, models)["error"] is None and has_come(models)


def test_a_part_of_an_older_file_is_not_gone_on_from(hub, models, tmp_path):
    fetch(hub.url, models, cancel_at=300_000)
    newer = CONTENT[WEIGHTS][::-1]
    (tmp_path / "hub" / WEIGHTS).write_bytes(newer)
    assert fetch(hub.url, models)["error"] is None
    assert (models / WEIGHTS).read_bytes() == newer and ranges(hub) == [None, None]
    assert not list(models.rglob("*.partial"))


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_corrupted_byte_is_rejected_and_fetched_again(hub, models, place):
    hub.faults[WEIGHTS] = [Corrupt(place)]
    result = fetch(hub.url, models)
    assert result["error"] is None and has_come(models)
    assert "expected " + SHA256 in result["log"] and ranges(hub) == [None, None]


def test_a_small_file_is_verified_too(hub, models):
    hub.faults[CONFIG] = [Corrupt(0.5), Corrupt(0.5)]
    result = fetch(hub.url, models, [entry(CONFIG)])
    assert result["error"] == "DownloadError" and "git hash" in result["message"]
    assert not (models / CONFIG).exists()


def test_a_file_that_comes_damaged_twice_is_not_kept(hub, models):
    hub.faults[WEIGHTS] = [Corrupt(0.5), Corrupt(0.2)]
    result = fetch(hub.url, models)
    assert result["error"] == "DownloadError" and "arrived corrupted twice" in result["message"]
    assert not (models / WEIGHTS).exists() and not list(models.rglob("*.partial"))


def test_a_full_disk(hub, models):
    result = fetch(hub.url, models, file_limit=400_000)
    assert result["error"] == "DownloadError" and "the disk is full" in result["message"]
    assert not (models / WEIGHTS).exists() and partial(models).stat().st_size == 400_000
    assert fetch(hub.url, models)["error"] is None and has_come(models)
    assert ranges(hub)[-1] == "bytes=400000-"


def test_room_is_asked_for_before_anything_is_fetched(hub, models):
    result = fetch(hub.url, models, room=500_000)
    assert result["error"] == "DownloadError" and re.search(r"has room for 500\.0 kB, but the download needs 68\.\d MB", result["message"])
    assert not ranges(hub)


@pytest.mark.parametrize(("code", "words"), [(404, "does not exist"), (403, "HF_TOKEN"), (401, "HF_TOKEN"), (500, "answered 500")])
def test_an_answer_that_says_no(hub, models, code, words):
    hub.faults[WEIGHTS] = [Status(code)]
    result = fetch(hub.url, models)
    assert result["error"] == "DownloadError" and words in result["message"] and str(models / WEIGHTS) in result["message"]
    assert not (models / WEIGHTS).exists()


@pytest.mark.parametrize("headers", [True, False])
def test_a_server_that_falls_silent(hub, models, headers):
    hub.faults[WEIGHTS] = [Silence(60, headers=headers)]
    result = fetch(hub.url, models)
    assert result["error"] is None and has_come(models) and result["seconds"] > 1


def test_a_server_that_never_answers(models):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        result = fetch(f"http://127.0.0.1:{listening.getsockname()[1]}", models, metadata_timeout=1.0)
    assert result["error"] == "DownloadError" and "cannot be downloaded" in result["message"] and result["seconds"] < 5


def test_two_processes_at_once(hub, models):
    hub.faults[WEIGHTS] = [Slow(1_000_000)]
    children = [start(hub.url, models) for _ in range(2)]
    assert [finish(child)["error"] for child in children] == [None, None]
    assert has_come(models) and ranges(hub) == [None]  # the second took what the first had brought


def test_two_processes_at_once_with_several_files(hub, models, tmp_path):
    """The one that waited finds all that the other has brought meanwhile."""
    names = [f"net/{letter}.bin" for letter in "abcd"]
    for name in names:
        (tmp_path / "hub" / name).write_bytes(name.encode() * 20_000)
    hub.faults[names[0]] = [Slow(50_000)]
    children = [start(hub.url, models, [entry(name) for name in names]) for _ in range(2)]
    assert [finish(child)["error"] for child in children] == [None, None]
    assert len(ranges(hub)) == len(names)


def test_one_process_continues_when_the_other_dies(hub, models):
    hub.faults[WEIGHTS] = [Slow(500_000)]
    first = start(hub.url, models)
    while not list(models.rglob("*.partial")) or not partial(models).stat().st_size:
        time.sleep(0.02)
    second = start(hub.url, models)
    time.sleep(0.7)
    first.kill()
    first.communicate()
    assert finish(second)["error"] is None and has_come(models)


def test_a_repository_with_another_file_than_the_known_one(hub, models):
    result = fetch(hub.url, models, [entry(WEIGHTS, sha256="0" * 64)])
    assert result["error"] == "DownloadError" and "is a different file" in result["message"] and not ranges(hub)


def test_a_file_in_the_hubs_cache_is_taken_from_there(models):
    cache = models.with_name("hf_home") / "hub" / "models--owner--name"
    blob, snapshot = cache / "blobs" / SHA256, cache / "snapshots" / ("a" * 40)
    for folder in (blob.parent, snapshot / "net", cache / "refs"):
        folder.mkdir(parents=True)
    blob.write_bytes(CONTENT[WEIGHTS])
    (snapshot / WEIGHTS).symlink_to(blob)
    (cache / "refs" / "main").write_text("a" * 40)
    assert fetch("http://127.0.0.1:9", models)["error"] is None and has_come(models)  # nobody listens there
    assert (models / WEIGHTS).samefile(blob)  # once on the disk

    blob.unlink()
    blob.write_bytes(CONTENT[WEIGHTS][:-1] + b"!")
    result = fetch("http://127.0.0.1:9", models)
    assert result["error"] == "DownloadError" and "which is not used" in result["log"] and has_come(models)


def test_a_token_goes_to_the_hub_alone(hub, models):
    """And not to the servers that it sends its readers to."""
    assert fetch(hub.url, models, environment={"HF_TOKEN": "hf_secret"})["error"] is None
    shown = {path.split("/")[1]: authorization for path, authorization in hub.authorizations.items()}
    assert shown == {"owner": "Bearer hf_secret", "cdn": None}


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1 cannot be reached"),
        ({"HF_ENDPOINT": "http://192.0.2.1"}, "192.0.2.1 cannot be reached"),
        ({"HF_ENDPOINT": "https://no-such-host.invalid"}, "no-such-host.invalid cannot be reached"),
        ({"HF_ENDPOINT": "http://example.org", "HTTP_PROXY": "http://127.0.0.1:9"}, "127.0.0.1 cannot be reached"),
    ],
)
def test_offline_one_sentence_lists_what_goes_where_within_two_seconds(models, environment, reason):
    result = fetch("http://127.0.0.1:9", models, [entry(WEIGHTS), entry(CONFIG)], environment)
    assert result["error"] == "DownloadError" and reason in result["message"] and result["seconds"] < 2
    assert result["message"].endswith(f"fetch by hand, from https://huggingface.co/{REPOSITORY}: {models / WEIGHTS}, {models / CONFIG}")
    assert not models.exists()


@pytest.fixture
def hub_of(monkeypatch):
    """Names the hub, in this process."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return lambda url: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_is_asked_instead_of_the_hub(hub, hub_of, monkeypatch, variable):
    hub_of("http://hub.invalid")
    assert client.unreachable().startswith("hub.invalid cannot be reached")
    monkeypatch.setenv(variable, hub.url)
    assert client.unreachable() is None
    monkeypatch.setenv("NO_PROXY", "hub.invalid")
    assert client.unreachable().startswith("hub.invalid cannot be reached")


@pytest.mark.parametrize("living", [True, False])
def test_an_address_that_does_not_answer_does_not_hide_the_next(hub, hub_of, monkeypatch, living):
    """As that of IPv6 in many a network."""
    connect, look_up = socket.create_connection, socket.getaddrinfo

    def through_the_network(address, timeout):
        if address[0] == "127.0.0.2":
            time.sleep(timeout)
            raise TimeoutError("timed out")
        return connect(address, timeout)

    def addresses(host, *rest, **options):
        names = ("127.0.0.2", "127.0.0.1")[: 1 + living] if host == "hub.invalid" else (host,)
        return [found for name in names for found in look_up(name, *rest, **options)]

    hub_of(hub.url.replace("127.0.0.1", "hub.invalid"))
    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    monkeypatch.setattr(socket, "create_connection", through_the_network)
    start = time.monotonic()
    assert (client.unreachable() is None) == living
    assert time.monotonic() - start < 2


def test_a_drive_that_is_not_there(monkeypatch):
    """Of Windows, where the parent of a drive is the drive."""
    monkeypatch.setattr(PureWindowsPath, "exists", lambda path: False, raising=False)
    with pytest.raises(DownloadError, match=r"there is no Z:\\. Plug it in"):
        fetching._check_room([], PureWindowsPath("Z:/models/memo"))


def test_the_client_tells_nothing_about_the_machine(models):
    """Its own user agent names versions of Python, torch and others."""
    agents = []

    def listen():
        connection, _ = listening.accept()
        with connection:
            pass  # the probe
        connection, _ = listening.accept()
        with connection:
            agents.append(connection.recv(4096).decode())

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=listen)
        thread.start()
        fetch(f"http://127.0.0.1:{listening.getsockname()[1]}", models, metadata_timeout=2.0)
        thread.join()
    [request] = agents
    assert "user-agent: ComfyUI-MEMO\r\n" in request.replace("User-Agent", "user-agent") and "python" not in request.lower()
