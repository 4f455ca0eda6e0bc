"""The tests' hub tells huggingface_hub what the real one would: metadata, content, parts of it, and errors."""

import hashlib
import random
import subprocess
import sys
import time

import pytest
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError
from huggingface_hub.file_download import http_get

from tests.helpers import hub_server
from tests.helpers.hub_server import Corrupt, Cut, HubServer, IgnoreRange, Silence, Slow, Status

REPOSITORY = "owner/name"
LARGE = "net/weights.safetensors"
SMALL = "net/config.json"
FILES = {LARGE: random.Random(0).randbytes(300_000), SMALL: b'{"layers": 2}\n', "empty.txt": b""}
# What breaks a download: the HTTP client's own errors are HTTPErrors in huggingface_hub's versions with httpx, OSErrors in those with requests.
BREAKS = (HTTPError, OSError)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub with one repository; the client reads in small chunks and does not sleep between its retries."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16 * 1024)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    for name, content in FILES.items():
        file = tmp_path / "repository" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with HubServer({REPOSITORY: tmp_path / "repository"}) as server:
        yield server


def url(server: HubServer, name: str, **kwargs) -> str:
    return hf_hub_url(kwargs.pop("repository", REPOSITORY), name, endpoint=server.url, **kwargs)


def download(server: HubServer, name: str, file, resume_size: int = 0) -> bytes:
    """The file after the client has downloaded into it; its first resume_size bytes are there already."""
    file.write_bytes(FILES[name][:resume_size])
    with file.open("ab") as target:
        http_get(url(server, name), target, resume_size=resume_size, expected_size=len(FILES[name]))
    return file.read_bytes()


def content_ranges(server: HubServer) -> list[str | None]:
    return [byte_range for method, path, byte_range in server.requests if method == "GET" and path.startswith("/cdn/")]


@pytest.mark.parametrize("name", FILES)
def test_metadata(server, name):
    content = FILES[name]
    metadata = get_hf_file_metadata(url(server, name), token=False)
    large = hashlib.sha256(content).hexdigest()
    small = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert (metadata.etag, metadata.size, metadata.commit_hash) == (large if name == LARGE else small, len(content), hub_server.COMMIT)
    assert (metadata.location == url(server, name)) == (name != LARGE)
    assert server.requests == [("HEAD", f"/{REPOSITORY}/resolve/main/{name}", None)]


def test_a_commit_is_its_own_revision(server):
    assert get_hf_file_metadata(url(server, SMALL, revision="f" * 40), token=False).commit_hash == "f" * 40


@pytest.mark.parametrize("name", FILES)
def test_whole_download(server, name, tmp_path):
    assert download(server, name, tmp_path / "file") == FILES[name]


@pytest.mark.parametrize(("name", "resume_size"), [(LARGE, 1), (LARGE, len(FILES[LARGE]) - 1), (SMALL, 5)])
def test_resumed_download(server, name, resume_size, tmp_path):
    assert download(server, name, tmp_path / "file", resume_size) == FILES[name]
    assert server.requests[-1][2] == f"bytes={resume_size}-"


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_download_is_retried_or_can_be_resumed(server, reset, tmp_path):
    server.faults[LARGE] = [Cut(0.5, reset)]
    file = tmp_path / "file"
    try:
        content = download(server, LARGE, file)
    except BREAKS:  # which of the two it is differs between the client's versions
        part = file.read_bytes()
        assert len(part) < len(FILES[LARGE]) and FILES[LARGE].startswith(part)
        content = download(server, LARGE, file, len(part))
    assert content == FILES[LARGE]
    first, second = content_ranges(server)
    assert first is None and server.faults[LARGE] == []
    if not reset:  # which may lose all that was sent
        assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= len(FILES[LARGE]) // 2


def test_cuts_without_end_are_given_up(server, tmp_path):
    server.faults[LARGE] = [Cut(0)] * 20
    with pytest.raises(BREAKS):
        download(server, LARGE, tmp_path / "file")
    assert len(content_ranges(server)) < 20


def test_a_corrupt_download_differs_in_one_byte(server, tmp_path):
    server.faults[LARGE] = [Corrupt(0.5)]
    content = download(server, LARGE, tmp_path / "file")
    assert [i for i, (is_, was) in enumerate(zip(content, FILES[LARGE], strict=True)) if is_ != was] == [len(content) // 2]
    assert download(server, LARGE, tmp_path / "file") == FILES[LARGE]


def test_an_ignored_range_sends_the_whole(server, tmp_path):
    server.faults[LARGE] = [IgnoreRange()]
    file = tmp_path / "file"
    with file.open("wb") as target:
        http_get(url(server, LARGE), target, headers={"Range": "bytes=100-199"})
    assert file.read_bytes() == FILES[LARGE]
    with file.open("wb") as target:
        http_get(url(server, LARGE), target, headers={"Range": "bytes=100-199"}, expected_size=100)
    assert file.read_bytes() == FILES[LARGE][100:200]


def test_a_range_beyond_the_end_is_refused(server, tmp_path):
    with pytest.raises(HfHubHTTPError, match="416"), (tmp_path / "file").open("wb") as target:
        http_get(url(server, LARGE), target, resume_size=len(FILES[LARGE]))


@pytest.mark.parametrize(("code", "error"), [(401, RepositoryNotFoundError), (403, GatedRepoError), (404, EntryNotFoundError), (500, HfHubHTTPError)])
def test_a_status_stays_until_it_is_removed(server, code, error, tmp_path):
    server.faults[LARGE] = [Status(code)]
    for _ in range(2):
        with pytest.raises(error, match=str(code)):
            get_hf_file_metadata(url(server, LARGE), token=False)
        with pytest.raises(error, match=str(code)):
            download(server, LARGE, tmp_path / "file")
    server.faults.clear()
    assert download(server, LARGE, tmp_path / "file") == FILES[LARGE]


def test_what_is_not_there(server):
    with pytest.raises(EntryNotFoundError):
        get_hf_file_metadata(url(server, "net/other.json"), token=False)
    with pytest.raises(EntryNotFoundError):
        get_hf_file_metadata(f"{server.url}/{REPOSITORY}/resolve/main/net/%2E%2E/%2E%2E/secret", token=False)
    for token in (False, "hf_token"):
        with pytest.raises(RepositoryNotFoundError):
            get_hf_file_metadata(url(server, SMALL, repository="owner/other"), token=token)


@pytest.mark.parametrize("headers", [False, True])
def test_silence_is_a_timeout_of_the_client(server, headers, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    server.faults[LARGE] = [Silence(60, headers)] * 10
    with pytest.raises(BREAKS, match="timed out"):
        download(server, LARGE, tmp_path / "file")
    assert len(server.faults[LARGE]) < 10


def test_a_slow_download_takes_its_time(server, tmp_path):
    server.faults[SMALL] = [Slow(len(FILES[SMALL]) / 0.3)]
    start = time.monotonic()
    assert download(server, SMALL, tmp_path / "file") == FILES[SMALL]
    assert 0.25 < time.monotonic() - start < 3


@pytest.mark.parametrize("fault", [Silence(60), Silence(60, headers=False), Slow(1000)])
def test_a_stop_does_not_wait_for_who_is_served(tmp_path, fault):
    (tmp_path / "file").write_bytes(bytes(50_000))
    with HubServer({REPOSITORY: tmp_path}) as server:
        server.faults["file"] = [fault]
        program = f"from urllib.request import urlopen; urlopen({url(server, 'file')!r}).read()"
        client = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        while not server.requests:
            assert client.poll() is None
            time.sleep(0.01)
        start = time.monotonic()
    assert time.monotonic() - start < 1
    assert client.wait(5) != 0  # what it was promised never came


def test_as_a_program(server, tmp_path):
    command = [sys.executable, hub_server.__file__, "--repository", f"{REPOSITORY}={tmp_path / 'repository'}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        endpoint = process.stdout.readline().strip()
        assert get_hf_file_metadata(hf_hub_url(REPOSITORY, LARGE, endpoint=endpoint), token=False).size == len(FILES[LARGE])
        process.stdin.close()
        assert process.wait(5) == 0
