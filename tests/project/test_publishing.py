"""What the public host and the registry read: workflows of the host, templates, pictures, the list of changes."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from memo_modules import __version__

ROOT = Path(__file__).resolve().parents[2]


def read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def test_the_host_runs_the_readmes_test_command_on_linux_and_windows():
    job = yaml.safe_load(read(".github", "workflows", "tests.yml"))["jobs"]["tests"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["python -m tools.test"] and "\npython3 -m tools.test\n" in read("README.md")
    assert [system.split("-")[0] for system in job["strategy"]["matrix"]["os"]] == ["ubuntu", "windows"]
    assert job["env"]["MEMO_REQUIRE_COMFYUI"] == "1", "or tests that find no ComfyUI are skipped"


def test_a_report_asks_for_what_finds_a_bug():
    form = yaml.safe_load(read(".github", "ISSUE_TEMPLATE", "1_bug.yml"))
    asked = {field["id"]: field for field in form["body"] if "id" in field}
    for name in ("versions", "machine", "models", "log", "how"):
        assert asked[name]["validations"]["required"], name
    assert (
        "ComfyUI" in asked["versions"]["attributes"]["description"] and "scripts/download.py --check" in asked["models"]["attributes"]["description"]
    )


@pytest.mark.parametrize(("name", "width", "height"), [("icon.png", 400, 400), ("banner.png", 1260, 540)])
def test_pictures_are_of_the_size_that_the_registry_shows(name, width, height):
    file = ROOT / "assets" / name
    with Image.open(file) as picture:
        assert picture.size == (width, height)
    assert file.stat().st_size < 150_000


def test_the_changes_of_this_version_are_listed():
    assert f"\n## {__version__}, " in read("CHANGELOG.md")
