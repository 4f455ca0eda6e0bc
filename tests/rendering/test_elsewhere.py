"""Inputs and results that lie elsewhere: behind URLs, and on machines that share no folder with this one."""

import json
import os
import pickle
from pathlib import Path

import fsspec
import pytest

from memo_modules.crew.running import Crew, Ready, Said
from memo_modules.errors import InputError, MissingPackageError, StorageError
from memo_modules.files.remote import Store, fetched
from memo_modules.rendering.carrying import Carrying, Elsewhere
from memo_modules.rendering.folder import DONE, FAILED, ResultFolder
from memo_modules.rendering.jobs import Job, read_manifest
from memo_modules.rendering.renderer import Models
from memo_modules.rendering.workers import Rendering, open_jobs, render_here, render_in_crew
from tests.helpers.graphs import write_wav
from tests.helpers.render_jobs import job

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def loaded(tiny_pipeline, monkeypatch):
    monkeypatch.setattr(Models, "load", lambda self, device: tiny_pipeline)


@pytest.fixture
def bucket():
    """The URL of an object store's folder, empty at first."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    return "memory://bucket/videos"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class OtherMachine(Crew):
    """One worker, with whom everything is exchanged as bytes, and who can read no file of ``hidden``."""

    def __init__(self, work: Elsewhere, hidden: Path):
        self._work, self._hidden, self._told = pickle.dumps(work), hidden, []

    def hire(self, place: int) -> None:
        self._answer_to = pickle.loads(self._work).start(lambda event: self._told.append((place, Said(event))))
        self._told.append((place, Ready()))

    def ask(self, place: int, job) -> None:
        away = self._hidden.rename(self._hidden.with_name("away"))
        try:
            answer = self._answer_to(pickle.loads(pickle.dumps(job)))
        finally:
            away.rename(self._hidden)
        self._told.append((place, pickle.loads(pickle.dumps(answer))))

    def messages(self, seconds: float) -> list:
        told, self._told = self._told, []
        return told

    def close(self) -> None:
        pass


def test_a_machine_that_shares_no_folder_makes_the_same_videos(loaded, inputs, tmp_path):
    here, there = ResultFolder(tmp_path / "here"), ResultFolder(tmp_path / "there")
    jobs = {each.key("m"): each for each in (job(inputs, "a/1.mp4"), job(inputs, "2.mp4", "bad.wav"), job(inputs, "3.mp4", seed=1))}
    render_here(Rendering(here.root, here.since, Models(Path()), "cpu", 1), open_jobs(jobs, here))
    (there.root / "3.mp4").write_bytes(b"of somebody else")
    events = []
    crew = Carrying(OtherMachine(Elsewhere(Models(Path("other")), "cpu", 1), inputs), there)
    render_in_crew(crew, 1, open_jobs(jobs, there), there, events.append)
    assert (there.root / "a/1.mp4").read_bytes() == (here.root / "a/1.mp4").read_bytes()
    [line] = lines(there.root / DONE)
    assert line["output"] == "a/1.mp4" and line["image"] == str(inputs / "me.jpg") and line["frames"] == 8
    assert {line["output"]: line["reason"].split()[-1] for line in lines(there.root / FAILED)}.keys() == {"2.mp4", "3.mp4"}
    kinds = [(event["event"], event.get("output")) for event in events if event["event"] in ("done", "failed")]
    assert sorted(kinds) == [("done", "a/1.mp4"), ("failed", "2.mp4"), ("failed", "3.mp4")]
    assert (there.root / "3.mp4").read_bytes() == b"of somebody else"
    assert open_jobs(jobs, there) == [] and not list((there.inside / "claims").glob(f"{next(iter(jobs))[:32]}*"))


def test_what_another_program_has_claimed_waits(loaded, inputs, tmp_path):
    folder = ResultFolder(tmp_path / "out")
    [(key, one)] = [(each.key("m"), each) for each in [job(inputs, "1.mp4")]]
    events, claim = [], ResultFolder(folder.root).claimed(key)
    assert claim.__enter__()

    class Freed(Carrying):
        def messages(self, seconds):
            told = super().messages(seconds)
            if any(type(message).__name__ == "Later" for _, message in told):
                claim.__exit__(None, None, None)
            return told

    render_in_crew(Freed(OtherMachine(Elsewhere(Models(Path()), "cpu", 1), inputs), folder), 1, [(key, one)], folder, events.append)
    assert folder.is_done(key) and [event["event"] for event in events].count("done") == 1


def test_videos_go_into_an_object_store_once(loaded, inputs, tmp_path, bucket):
    jobs = {each.key("m"): each for each in (job(inputs, "a/1.mp4"), job(inputs, "2.mp4", seed=1))}

    def render() -> tuple[ResultFolder, list[str]]:
        folder, made = ResultFolder(tmp_path / "out", upload=bucket), []
        work = Rendering(folder.root, folder.since, Models(Path()), "cpu", 1, bucket)
        render_here(work, open_jobs(jobs, folder), lambda event: made.extend([event["output"]] if event["event"] == "done" else []))
        return folder, made

    folder, made = render()
    assert made == ["a/1.mp4", "2.mp4"] and all(map(folder.is_done, jobs)) and Store(bucket).names() == {"a/1.mp4", "2.mp4"}
    assert not (folder.root / "2.mp4").exists() and render()[1] == []
    fsspec.filesystem("memory").rm("/bucket/videos/2.mp4")
    folder, made = render()
    assert made == ["2.mp4"] and folder.is_done(list(jobs)[1]), "what is gone is made again"
    other = job(inputs, "2.mp4", seed=9)
    with pytest.raises(InputError, match="memory://bucket/videos/2.mp4 is there already, and not of this job"):
        folder.target(other)


def test_a_video_whose_upload_fails_is_not_made_again(loaded, inputs, tmp_path, bucket, monkeypatch):
    jobs = {(each := job(inputs, "1.mp4")).key("m"): each}
    folder = ResultFolder(tmp_path / "out", upload=bucket)
    work, clips = Rendering(folder.root, folder.since, Models(Path()), "cpu", 1, bucket), []
    with monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("memory")), "put_file", lambda *rest, **options: (_ for _ in ()).throw(ConnectionError("lost")))
        with pytest.raises(StorageError, match=r"memory://bucket/videos/1.mp4.* cannot be reached or written \(ConnectionError: lost"):
            render_here(work, open_jobs(jobs, folder))
    render_here(work, open_jobs(jobs, folder), lambda event: clips.extend([event] if event["event"] == "clip" else []))
    assert not clips and Store(bucket).names() == {"1.mp4"} and folder.is_done(next(iter(jobs)))


def test_inputs_are_fetched_and_again_when_they_have_changed(inputs, tmp_path, bucket):
    store = Store(bucket)
    store.put(inputs / "me.jpg", "in/me.jpg")
    store.put(inputs / "short.wav", "in/short.wav")
    manifest = tmp_path / "jobs.jsonl"
    urls = {"image": f"{bucket}/in/me.jpg", "audio": f"{bucket}/in/short.wav"}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in [urls, urls | {"image": f"{bucket}/in/gone.jpg"}]), encoding="utf-8")
    [(_, found), (_, gone)] = read_manifest(manifest, {}, lambda url: fetched(url, tmp_path / "inputs"))
    assert found.output == "me_short.mp4" and found.image.read_bytes() == (inputs / "me.jpg").read_bytes()
    assert found.key("m") == Job(inputs / "me.jpg", inputs / "short.wav", "me_short.mp4").key("m")
    assert isinstance(gone, InputError) and "line 2: " in str(gone) and "gone.jpg' cannot be read (FileNotFoundError" in str(gone)
    before = fetched(urls["audio"], tmp_path / "inputs")
    status = before.stat()
    assert fetched(urls["audio"], tmp_path / "inputs") == before and before.stat() == status
    write_wav(inputs / "short.wav", 8000, 16000)
    store.put(inputs / "short.wav", "in/short.wav")
    assert fetched(urls["audio"], tmp_path / "inputs").read_bytes() == (inputs / "short.wav").read_bytes()


@pytest.mark.parametrize("url", ["github://o:r@/x", "simplecache::s3://a/b", "reference://x", "dask://x", "zip://a::file://b"])
def test_only_what_reads_and_writes_files_is_a_url(url, tmp_path):
    with pytest.raises(InputError, match="expected a URL that begins with one of file, memory"):
        fetched(url, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_store_whose_package_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "smbprotocol", None)
    with pytest.raises(MissingPackageError, match="smb"):
        fetched("smb://machine/share/x.wav", tmp_path)
