"""Servers that do not end, do not answer or answer something else: Cancel is heard within two seconds at any moment, no
more bytes come than were announced, and nothing gets a model's name that is not one."""

import hashlib
import os
import random
import re
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from memo_modules.errors import DownloadError
from memo_modules.host import Host
from memo_modules.store import aside, fetching, transfer
from memo_modules.store import hub as client
from memo_modules.store.catalogue import ModelFile
from tests.helpers.hub_server import Bomb, Cut, Endless, HubServer, Longer, OtherRange, Page, Refuse, Silence, Slow, Status, Trickle

REPOSITORY = "owner/name"
WEIGHTS = "net/weights.safetensors"
CONTENT = random.Random(0).randbytes(300_000)
HEARD = 2.0  # seconds


class Cancelled(Exception):
    """As ComfyUI's, no error of ours."""


@pytest.fixture
def hub_is(monkeypatch):
    """Names the hub, in this process."""

    def name(url: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        for module in ("constants", "file_download"):  # the older client's is in the second
            template = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
            monkeypatch.setattr(template, url + "/{repo_id}/resolve/{revision}/{filename}", raising=False)

    return name


@pytest.fixture
def hub(tmp_path, monkeypatch, hub_is):
    client.client()
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    (tmp_path / "hub/net").mkdir(parents=True)
    (tmp_path / "hub" / WEIGHTS).write_bytes(CONTENT)
    monkeypatch.setattr(transfer, "_PAUSES", (0.05, 0.05))
    with HubServer({REPOSITORY: tmp_path / "hub"}) as server:
        hub_is(server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


@pytest.fixture
def models(tmp_path) -> Path:
    return tmp_path / "models"


def fetch(models: Path, path: str = WEIGHTS, check=lambda: None, progress=lambda done, total: None, **known) -> None:
    unknown = {"size": None, "sha256": None, "needed": True}
    fetching.fetch([ModelFile(REPOSITORY, "main", path, path, **unknown | known)], models, Host(progress, check))


def kept(models: Path) -> int:
    """Bytes of files that wait to be completed."""
    return sum(file.stat().st_size for file in models.rglob("*.partial"))


class Cancel:
    """A check for an interrupt that raises 0.3 seconds after ``begun`` says so."""

    def __init__(self, begun):
        self.begun, self.at = begun, None

    def __call__(self):
        if self.at is None and self.begun():
            self.at = time.monotonic() + 0.3
        if self.at and time.monotonic() > self.at:
            raise Cancelled


def assert_heard(work, begun) -> None:
    """That ``work``, given a check for an interrupt, ends by it within two seconds of the asking."""
    cancel, outcome = Cancel(begun), []

    def run():
        try:
            outcome.append(work(cancel))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while thread.is_alive() and time.monotonic() < end and not (begun() and cancel.at and time.monotonic() > cancel.at + HEARD):
        time.sleep(0.02)
    assert not thread.is_alive(), "not heard"
    assert isinstance(outcome[0], Cancelled), outcome


@pytest.mark.parametrize(
    "fault",
    [
        Silence(60),
        Silence(60, headers=False),
        Slow(100_000),
        Trickle("body"),
        Trickle("headers"),
        Trickle("metadata"),
        Status(429, retry_after="30"),
        Status(503, retry_after="30"),
        Refuse(429, (("Retry-After", "30"),)),
    ],
    ids=str,
)
def test_cancel_is_heard_while_the_server_keeps_one_waiting(hub, models, fault):
    hub.faults[WEIGHTS] = [fault]
    metadata = isinstance(fault, Status) or fault == Trickle("metadata")
    assert_heard(lambda check: fetch(models, check=check), lambda: any(metadata or "/cdn/" in path for _, path, _ in list(hub.requests)))
    assert not (models / WEIGHTS).exists()
    hub.faults.clear()
    fetch(models)
    assert (models / WEIGHTS).read_bytes() == CONTENT


def test_cancel_is_heard_while_metadata_does_not_come(hub, models, hub_is):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub_is(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert_heard(lambda check: fetch(models, check=check), lambda: True)


def test_cancel_is_heard_while_another_process_downloads(hub, models):
    (models / "net/.downloads").mkdir(parents=True)
    with FileLock(models / "net/.downloads/weights.safetensors.lock"):
        assert_heard(lambda check: fetch(models, check=check), lambda: hub.requests)


def test_cancel_is_heard_while_gigabytes_are_hashed_or_copied(tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**34)
    assert_heard(lambda check: fetching.verify(large, None, None, check), lambda: True)
    assert_heard(lambda check: fetching._copy(large, tmp_path / "copy", check), lambda: True)
    (tmp_path / "copy").unlink()


def test_cancel_is_heard_while_a_slow_disk_takes_the_file(hub, models, monkeypatch):
    monkeypatch.setattr(fetching.os, "fsync", lambda number: time.sleep(10))
    assert_heard(lambda check: fetch(models, check=check), lambda: list(models.rglob("*.partial")))
    assert kept(models) == len(CONTENT)


def test_cancel_is_heard_while_a_name_is_looked_up(hub, models, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(10))
    with pytest.raises(DownloadError, match="cannot be reached"):
        start = time.monotonic()
        fetch(models)
    assert time.monotonic() - start < HEARD


@pytest.mark.parametrize("fault", [Trickle("headers"), Trickle("metadata")], ids=str)
def test_headers_without_end_end_in_an_error(hub, models, monkeypatch, fault):
    monkeypatch.setattr(transfer, "_ANSWER_TIMEOUT", 0.4)
    monkeypatch.setattr(fetching, "_METADATA_TIMEOUT", 0.4)
    hub.faults[WEIGHTS] = [fault] * 9
    with pytest.raises(DownloadError, match=r"no answer within \d seconds"):
        fetch(models)


@pytest.mark.parametrize("known", [{}, {"size": len(CONTENT)}], ids=str)
@pytest.mark.parametrize(
    ("fault", "words"), [(Endless(), "sent more than the 300000 bytes"), (Bomb(), "compressed"), (Longer(5), "'300005' bytes")], ids=str
)
def test_no_more_comes_than_was_announced(hub, models, monkeypatch, fault, words, known):
    monkeypatch.setattr(transfer, "PACE", 0)  # or the bar would not move before the end
    hub.faults[WEIGHTS] = [fault]
    most = []
    with pytest.raises(DownloadError, match=words):
        fetch(models, progress=lambda done, total: most.append(done), **known)
    assert not (models / WEIGHTS).exists() and kept(models) == 0 and max(most, default=0) <= len(CONTENT)


@pytest.mark.parametrize("right", [True, False])
def test_a_sum_that_only_the_hub_recorded_is_told_and_not_refused(hub, models, caplog, right):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    fetch(models, recorded=sha256 if right else "0" * 64)
    assert (models / WEIGHTS).read_bytes() == CONTENT
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == (0 if right else 1)
    assert right or (sha256 in told[0] and "0" * 64 in told[0] and WEIGHTS in told[0])


def test_it_says_which_file_how_much_how_fast_and_how_long_yet(hub, models, monkeypatch):
    monkeypatch.setattr(fetching, "SAID_EVERY", 0.0)
    hub.faults[WEIGHTS] = [Slow(200_000)]
    said = []
    fetching.fetch([ModelFile(REPOSITORY, "main", WEIGHTS, WEIGHTS, None, None, True)], models, Host(say=said.append))
    assert said and re.fullmatch(rf"{re.escape(WEIGHTS)}: [\d.]+ kB of 300.0 kB, [\d.]+ kB a second, 0:00:0\d left for all 300.0 kB", said[-1]), said


@pytest.mark.parametrize("fault", [Refuse(416), OtherRange()], ids=str)
def test_a_server_that_cannot_continue_is_asked_for_all(hub, models, fault):
    hub.faults[WEIGHTS] = [Cut(0.5), fault]
    fetch(models)
    assert (models / WEIGHTS).read_bytes() == CONTENT
    assert [asked for _, path, asked in hub.requests if "/cdn/" in path] == [None, "bytes=150000-", None]


@pytest.mark.parametrize("fault", [Refuse(416), OtherRange(), Refuse(204)], ids=str)
def test_a_server_that_never_gives_the_file_is_given_up(hub, models, fault):
    hub.faults[WEIGHTS] = [Cut(0.5), *[fault, Cut(0.5)] * 5]
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(models)


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_again(hub, models, code, caplog):
    hub.faults[WEIGHTS] = [Status(code, retry_after="0", once=True), Refuse(code), Cut(0.5), Refuse(code, (("Retry-After", "1"),))]
    start = time.monotonic()
    fetch(models)
    assert (models / WEIGHTS).read_bytes() == CONTENT and time.monotonic() - start > 1
    assert f"answered {code}. Trying again in 1 seconds." in caplog.text


@pytest.mark.parametrize("asked", ["100000", "Fri, 31 Dec 2199 23:59:59 GMT", "9" * 5000])
def test_a_server_that_asks_to_wait_for_days_is_not_waited_for(hub, models, asked):
    hub.faults[WEIGHTS] = [Cut(0.5), Refuse(429, (("Retry-After", asked),))]
    with pytest.raises(DownloadError, match=r"answered 429, and asks to wait \d+ seconds. \d+\.\d kB of it is kept; run again to continue.$"):
        fetch(models)
    assert kept(models) == len(CONTENT) // 2


def test_a_busy_server_is_given_up_in_the_end(hub, models):
    hub.faults[WEIGHTS] = [Status(503)]
    with pytest.raises(DownloadError, match="answered 503"):
        fetch(models)
    assert len(hub.requests) == 3


def test_the_bar_moves_every_second(hub, models):
    hub.faults[WEIGHTS] = [Slow(150_000)]
    steps = [time.monotonic()]
    fetch(models, progress=lambda done, total: steps.append(time.monotonic()))
    assert max(after - before for before, after in zip(steps, steps[1:], strict=False)) < 1
    assert len(steps) < 20  # each is a message to every browser


def test_the_older_client_has_another_kind_of_session(hub, models, monkeypatch):
    """huggingface_hub before version 1."""
    requests = pytest.importorskip("requests")
    monkeypatch.setattr("huggingface_hub.get_session", requests.Session)
    hub.faults[WEIGHTS] = [Cut(0.5), Refuse(416), Refuse(503)]
    fetch(models)
    assert (models / WEIGHTS).read_bytes() == CONTENT
    for fault in (Trickle("body"), Trickle("headers"), Silence(60)):
        hub.requests.clear()
        hub.faults[WEIGHTS] = [fault]
        assert_heard(lambda check: fetch(models, check=check), lambda: any("/cdn/" in path for _, path, _ in list(hub.requests)))
    hub.faults[WEIGHTS] = [Endless()]
    with pytest.raises(DownloadError, match="sent more than"):
        fetch(models)


SAFETENSORS = struct.pack("<Q", 2) + b"{}"
WHOLE = {"a.json": b'{"layers": 2}', "a.safetensors": SAFETENSORS, "a.onnx": b"\x08\x07graph", "a.pt": b"PK\x03\x04" + bytes(2**14), "a.txt": b"text"}


@pytest.mark.parametrize("path", WHOLE)
def test_what_nobody_vouches_for_is_looked_at(hub, models, tmp_path, path):
    hub.etags = False
    (tmp_path / "hub" / path).write_bytes(WHOLE[path])
    fetch(models, path)
    assert (models / path).read_bytes() == WHOLE[path]


@pytest.mark.parametrize("path", WHOLE)
def test_a_login_page_is_no_model(hub, models, tmp_path, path):
    hub.faults[path] = [Page()]
    (tmp_path / "hub" / path).write_bytes(WHOLE[path])
    with pytest.raises(DownloadError, match=f"{path} is not what .* sent, which was discarded: .*is a web page"):
        fetch(models, path)
    assert not [file for file in models.rglob("*") if file.is_file() and file.suffix != ".lock"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.json", b"[1, 2]"),
        ("a.json", b"[" * 50_000),
        ("a.json", b"<"),
        ("a.safetensors", SAFETENSORS[:-1]),
        ("a.safetensors", b"\xff" * 100),
        ("a.safetensors", b'{"error": "not found"}'),
        ("a.onnx", b'{"error": "not found"}'),
        ("a.pt", b"PK\x03\x04"),
        ("a.pt", b"not found " * 2000),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1"),
    ],
)
def test_an_error_in_another_form_is_no_model_either(hub, models, tmp_path, path, content):
    hub.etags = False
    (tmp_path / "hub" / path).write_bytes(content)
    with pytest.raises(DownloadError, match="which was discarded"):
        fetch(models, path)
    assert not (models / path).exists() and not list(models.rglob(".downloads/a.*[!k]"))


ENDPOINTS = (
    "http://h:abc", "https://h:99999", "https://h:0", "", " ", "https://hugging face.co", "huggingface.co", "ftp://huggingface.co", "file:///etc",
    "https://", "https://[::1", "https://:80", "https://h\x00", "//huggingface.co",
)  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_that_is_none_is_named(hub, models, hub_is, endpoint):
    hub_is(endpoint)
    with pytest.raises(DownloadError, match="^HF_ENDPOINT is '.*', expected an address such as https://huggingface.co"):
        fetch(models)


@pytest.mark.parametrize("proxy", ["http://h:abc", "http://user:secret@h:99999", "h:p", "ftp://h", "http://"])
def test_a_proxy_that_is_none_is_named(hub, models, hub_is, monkeypatch, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    hub_is("http://hub.invalid")
    with pytest.raises(DownloadError, match="^HTTP_PROXY is '.*', expected an address") as error:
        fetch(models)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["a" * 70 + ".com", "a..b"])
def test_a_host_that_no_name_can_be(hub, models, hub_is, name):
    hub_is(f"http://{name}")
    with pytest.raises(DownloadError, match=r"cannot be reached \((?!no answer)"):
        fetch(models)


def test_a_token_that_cannot_be_sent_is_not_shown(hub, models, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: "hf_sec\x00ret")
    try:
        fetch(models)
    except DownloadError as error:
        said = str(error)
    else:
        pytest.skip("this client sends it")
    assert "ret" not in said and "hf_sec" not in said


def test_a_folder_instead_of_a_file(hub, models):
    (models / WEIGHTS).mkdir(parents=True)
    with pytest.raises(DownloadError, match="is a folder, where a file belongs"):
        fetch(models)
    assert not hub.requests


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_pipes_instead_of_files_are_replaced(hub, models):
    (models / "net/.downloads").mkdir(parents=True)
    file = models / WEIGHTS
    os.mkfifo(file)
    os.mkfifo(file.with_name("weights.safetensors.sha256"))
    os.mkfifo(file.parent / ".downloads" / f"weights.safetensors.{fetching.hashlib.sha256(CONTENT).hexdigest()[:16]}.partial")
    assert fetching.learned_sha256(file) is None
    fetch(models)
    assert file.read_bytes() == CONTENT and fetching.learned_sha256(file) == fetching.hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"deadbeef  weights.safetensors\n", b"g" * 64 + b"  x", b"a" * 100_000])
def test_a_record_that_is_none(tmp_path, content):
    (tmp_path / "a.onnx.sha256").write_bytes(content)
    assert fetching.learned_sha256(tmp_path / "a.onnx") is None


def test_what_is_left_behind_ends_by_itself():
    ended = threading.Event()

    def work(give):
        try:
            while True:
                give(1)
        finally:
            ended.set()

    with aside.given(work, lambda: None) as items:
        assert next(items) == 1 and not ended.is_set()
    assert ended.wait(5)
