"""Folders that could stop ComfyUI: what is no file under a model's name, and links to more than can be searched."""

import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from memo_modules.store import finding, judging, obtain, walking
from memo_modules.store.catalogue import CATALOGUE

SMALL = Path(__file__).resolve().parents[2] / "assets" / "models"


@pytest.fixture(autouse=True)
def nothing_remembered():
    judging.forget()
    yield
    judging.forget()


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "models" / "memo"
    shutil.copytree(SMALL / "memo" / "small", root / "memo")
    return root


def within(seconds: float, work):
    """What ``work`` returns, which must not take longer; it hangs where a pipe is opened."""
    result = []
    thread = threading.Thread(target=lambda: result.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert result, "it hangs, or failed"
    return result[0]


def tree(folder: Path, folders: int) -> Path:
    for i in range(folders):
        (folder / f"{i // 20}" / f"{i % 20}").mkdir(parents=True)
    return folder


# What is no file


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return "named pipe"


def device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "device"


def bound(path: Path) -> str:
    before = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)
    os.chdir(before)
    return "socket"


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
@pytest.mark.parametrize("make", [pipe, device, bound])
@pytest.mark.parametrize(
    ("role", "name", "place"),
    [
        ("nets", "new.safetensors", "new.safetensors"),
        ("nets", "new/reference_net/diffusion_pytorch_model.safetensors", "new"),
        ("nets", "new/reference_net/config.json", "new"),
        ("nets", "new/reference_net.safetensors", "new"),
        ("emotion2vec", "new/model.pt", "new"),
        ("emotion2vec", "new/model.safetensors", "new"),
        ("emotion2vec", "emotion2vec.pt", "emotion2vec.pt"),
        ("vocal_separator", "new/Kim_Vocal_2.onnx", "new"),
        ("face_analysis", "new/scrfd_10g_bnkps.onnx", "new"),
        ("emotion_classifier", "new/audio_emotion_classifier/diffusion_pytorch_model.safetensors", "new"),
        ("emotion_classifier", "new/audio_emotion_classifier/config.json", "new"),
        ("audio_encoder", "new/config.json", "new"),
        ("audio_encoder", "new/pytorch_model.bin", "new"),
        ("vae", "new_vae.safetensors", "new_vae.safetensors"),
    ],
)
def test_what_is_no_file_is_never_opened(root, role, name, place, make):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    kind = make(root / name)
    before = finding.find(role, [root])
    listing = within(5, lambda: finding.find(role, [root]))
    assert place not in listing.found and listing == before
    said = (f"a {kind}, not a file", "missing", "No such device")  # the last of a socket
    assert any(words in listing.refused[place] for words in said), listing.refused[place]
    if role not in ("vae", "emotion2vec", "audio_encoder"):
        assert "memo" in listing.found


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
@pytest.mark.parametrize("role", CATALOGUE)
def test_a_pipe_instead_of_a_published_file_is_no_model(tmp_path, role):
    model, models = CATALOGUE[role], tmp_path / "models"
    for file in model.needed:
        (models / model.kind / file.target).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(models / model.kind / file.target)
    _, files = within(5, lambda: obtain.missing(model, lambda kind: [models / kind]))
    assert files == model.needed


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
def test_a_pipe_with_a_name_that_nothing_reads_is_not_mentioned(root):
    before = finding.find("nets", [root])
    os.mkfifo(root / "control")
    os.mkfifo(root / "memo" / "control")
    assert within(5, lambda: finding.find("nets", [root])) == before


# More than can be searched


def test_a_link_to_a_whole_disk_is_given_up(root, tmp_path, monkeypatch, caplog):
    disk = tree(tmp_path / "disk", 300)
    shutil.copytree(SMALL / "memo" / "small", disk / "near")
    monkeypatch.setattr(walking, "_MOST_FOLDERS", 100)
    (root / "everything").symlink_to(disk)
    listing = finding.find("nets", [root])
    assert list(listing.found) == ["memo", "everything/near"]
    assert listing.refused.keys() == {"everything"}
    assert f"{root}/everything leads to more than can be searched: after 100 folders with " in listing.refused["everything"]

    looked, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(str(path)) or scan(path))
    assert finding.find("nets", [root]) == listing
    assert not [path for path in looked if "/everything" in path and "/near" not in path]  # it is not paid for again
    assert caplog.text.count("more than can be searched") == 1
    shutil.copytree(SMALL / "memo" / "small", root / "new")
    assert "new" in finding.find("nets", [root]).found


def test_a_root_that_is_a_whole_disk_is_given_up(tmp_path, monkeypatch):
    disk = tree(tmp_path / "disk", 300)
    shutil.copytree(SMALL / "memo" / "small", disk / "near")
    monkeypatch.setattr(walking, "_MOST_FOLDERS", 100)
    listing = finding.find("nets", [disk])
    assert list(listing.found) == ["near"] and "disk holds more than can be searched" in listing.refused["disk"]
    shutil.copytree(SMALL / "memo" / "small", disk / "new")
    assert "new" not in finding.find("nets", [disk]).found
    judging.forget()
    assert "new" in finding.find("nets", [disk]).found


@pytest.mark.parametrize("files", [50, 51])
def test_a_folder_with_more_files_than_can_be_listed_is_said(tmp_path, monkeypatch, files):
    monkeypatch.setattr(walking, "_MOST_ENTRIES", 50)
    for i in range(files):
        (tmp_path / f"{i}.txt").touch()
    assert list(finding.find("nets", [tmp_path]).refused) == ([tmp_path.name] if files > 50 else [])


def slow(monkeypatch, seconds: float) -> None:
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: time.sleep(seconds) or scan(path))


def test_a_link_to_a_slow_server_is_given_up(root, tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "_LINKED_TIME", (0.1, 10))
    (root / "server").symlink_to(tree(tmp_path / "server", 200))
    slow(monkeypatch, 0.05)
    start = time.monotonic()
    walking.walk(root)
    assert time.monotonic() - start < 5  # of 10
    listing = finding.find("nets", [root])
    assert "server" in listing.refused and list(listing.found) == ["memo"]


def test_many_folders_with_links_to_a_slow_server_take_no_longer_than_one(tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "_LINKED_TIME", (0.5, 3))
    server = tree(tmp_path / "server", 200)
    roots = [tmp_path / f"models {number}" for number in range(10)]
    for root in roots:
        root.mkdir()
        (root / "server").symlink_to(server)
    slow(monkeypatch, 0.05)
    start = time.monotonic()
    found = [walking.walk(root) for root in roots]
    assert time.monotonic() - start < 4  # of 100; three folders of each root are searched in any case
    assert all(tree.refused.keys() == {"server"} for tree in found)


def test_a_slow_disk_with_models_on_it_is_searched_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "_OWN_TIME", (0.0, 100))
    deep = tree(tmp_path / "disk", 50) / "2/9/deep/memo"
    shutil.copytree(SMALL / "memo" / "small", deep)
    slow(monkeypatch, 0.002)
    listing = finding.find("nets", [tmp_path / "disk"])
    assert list(listing.found.values()) == [deep] and not listing.refused


def test_links_back_and_forth_are_searched_once(root, tmp_path):
    tree(root / "many", 100)
    for i in range(100):
        (root / f"back {i}").symlink_to(root)
        (root / "many" / f"forth {i}").symlink_to(root / "many")
    found = walking.walk(root)
    assert len(found.folders) == len({folder.identity for folder in found.folders}) and not found.refused


def test_a_signature_does_not_read_a_whole_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "_MOST_FILES", 100)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "disk").mkdir()
    for i in range(400):
        (tmp_path / "disk" / f"{i}").mkdir()
    (tmp_path / "model/link").symlink_to(tmp_path / "disk")
    looked, status = [], Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: looked.append(self) or status(self, **options))
    assert [path for path, *_ in finding.signature(tmp_path / "model")] == [str(tmp_path / "model/config.json")]
    assert len(looked) < 150


# More than can be judged


def server_of(folder: Path, models: int) -> Path:
    """Files that all say they hold nets, and folders of nets and VAEs."""
    for number in range(models):
        place = folder / f"{number % 7}" / f"{number}"
        place.mkdir(parents=True)
        for name in ("reference_net.safetensors", "vae.safetensors", "other.safetensors"):
            (place / name).write_bytes(b"damaged")
        (place / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
        (place / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    return folder


def slow_to_open(monkeypatch, seconds: float) -> list[str]:
    """Whatever is looked into is slow; returns the files."""
    opened, check = [], finding._file_signature

    def slowly(path):
        opened.append(str(path))
        time.sleep(seconds)
        return check(path)

    monkeypatch.setattr(finding, "_file_signature", slowly)
    return opened


def test_what_a_link_to_a_slow_server_leads_to_is_judged_for_a_while_only(root, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(judging, "_LINKED_TIME", (0.3, 3))
    (root / "server").symlink_to(server_of(tmp_path / "server", 20))
    opened = slow_to_open(monkeypatch, 0.02)
    listings = {role: finding.find(role, [root]) for role in ("nets", "vae", "emotion_classifier")}
    assert len([name for name in opened if "/server/" in name]) < 150  # of 300
    assert list(listings["nets"].found) == ["memo"]
    for listing in listings.values():
        assert "server leads to more files than can be looked into: after " in listing.refused["server"]
        assert "Let the link lead to the folder of the models alone." in listing.refused["server"]
    assert caplog.text.count("more files than can be looked into") == 3

    opened.clear()
    assert finding.find("nets", [root]) == listings["nets"]
    assert not [name for name in opened if "/server/" in name]  # it is not paid for again
    monkeypatch.setattr(judging, "_LINKED_TIME", (600.0, 3))
    judging.forget()
    assert len(finding.find("nets", [root]).refused) >= 20


def test_what_lies_in_a_root_itself_is_judged_for_a_while_only(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "_OWN_TIME", (0.3, 3))
    root = server_of(tmp_path / "models", 60)
    opened = slow_to_open(monkeypatch, 0.02)
    listing = finding.find("nets", [root])
    assert len(opened) < 50  # of 400
    assert "models holds more files than can be looked into" in listing.refused["models"] and len(listing.refused) > 3


def test_slow_models_are_all_judged_where_they_are_few(root, tmp_path, monkeypatch):
    """Those of other roots have no less time because of a server that was given up."""
    monkeypatch.setattr(judging, "_LINKED_TIME", (0.1, 4))
    (root / "server").symlink_to(server_of(tmp_path / "server", 50))
    near = tmp_path / "near" / "link"
    shutil.copytree(SMALL / "memo" / "small", tmp_path / "few")
    near.parent.mkdir()
    near.symlink_to(tmp_path / "few")
    slow_to_open(monkeypatch, 0.01)
    found = finding.find("nets", [root, near.parent])
    assert list(found.found) == ["memo", "link"] and set(found.refused) > {"server"}
