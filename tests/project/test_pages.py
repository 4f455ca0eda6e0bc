"""The public pages: short enough to be read, every link leads somewhere, and what they say in figures is what the code counts."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from memo_modules.models.config import DiffusionNetConfig
from memo_modules.sampler.footprint import Footprint
from memo_modules.types import DEFAULT_SETTINGS, SamplerSettings
from tools.derived import model_table

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NODES = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("web/docs/*.md"), *ROOT.glob("tools/*/*.md"), *ROOT.glob("assets/*.md")]
OF_THE_HOST = "../../actions/"
"""Where the public host, which shows the README as part of a longer address, has the runs of the tests."""

GIB = 2**30
OTHERS = 0.4 * GIB
"""VRAM of everything but the two UNets: VAE, projections, contexts of portrait and face."""


def links(page: Path) -> Iterator[str]:
    """The relative ones."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text):
        target = link[0] or link[1]
        if not re.match(r"[a-z]+:", target) and not target.startswith(OF_THE_HOST):
            yield target


def anchors(page: Path) -> set[str]:
    """Those that the host gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_begins_with_a_moving_picture():
    assert len(README.splitlines()) < 220
    first = README[: README.index("## ")]
    [name] = re.findall(r"\]\((assets/[^)]+\.webp)\)", first)
    assert (ROOT / name).stat().st_size < 3_000_000
    with Image.open(ROOT / name) as picture:
        assert picture.is_animated and picture.n_frames > 60 and picture.info["loop"] == 0


def test_the_readme_lists_every_node_with_its_page():
    listed = re.findall(r"^\| \[([^\]]+)\]\(web/docs/(\w+)\.md\) \|", README, re.MULTILINE)
    assert sorted(listed) == sorted((node["display_name"], name) for name, node in NODES.items())


def test_the_download_is_what_the_catalogue_adds_up_to():
    assert f"| {model_table.download()} for all models" in README
    [words] = re.findall(r"about (\d+) GB in all", (ROOT / "web/docs/MemoLoadAll.md").read_text(encoding="utf-8"))
    notes = {file.stem: re.findall(r"about (\d+) GB come", file.read_text(encoding="utf-8")) for file in (ROOT / "workflows").glob("*.json")}
    whole, mood_by_hand = (f"{size / 1e9:.0f}" for size in (model_table.size(), model_table.size(without={"emotion2vec", "emotion_classifier"})))
    assert words == whole
    assert all(set(said) == {mood_by_hand if name == "low_memory" else whole} for name, said in notes.items())


def manifest(net: str) -> dict:
    return json.loads((ROOT / "tests" / "manifests" / f"manifest_{net}.json").read_text(encoding="utf-8"))


def vram(side: int, settings: SamplerSettings = DEFAULT_SETTINGS) -> dict[str, str]:
    """GiB of VRAM by memory mode, and of RAM for past frames in low-memory mode, for a square video in bfloat16."""
    config = DiffusionNetConfig.from_dict(manifest("diffusion_net")["constructor_kwargs"], "")
    weights = {phase: 2 * manifest(f"{phase}_net")["n_params"] for phase in ("reference", "diffusion")}
    footprint = Footprint(config, (side // 8, side // 8), settings, itemsize=torch.bfloat16.itemsize)
    needs = {
        "normal": sum(weights.values()) + footprint.motion_memory + footprint.working + OTHERS,
        "low": max(weights[phase] + footprint.low_memory[phase] for phase in weights) + footprint.streamed_memory + OTHERS,
        "ram": footprint.motion_memory,
    }
    return {name: f"{size / GIB:.1f}" for name, size in needs.items()}


@pytest.mark.parametrize("side", [256, 384, 512, 768])
def test_the_page_on_memory_says_what_is_counted(side):
    needs = vram(side)
    row = f"| {side}×{side} | {needs['normal']} GiB | {needs['low']} GiB | {needs['ram']} GiB |"
    assert row in (ROOT / "docs" / "memory.md").read_text(encoding="utf-8").splitlines()


def test_tooltips_and_pages_say_what_is_counted_for_the_default_size():
    needs = vram(512)
    normal, low, ram = f"{float(needs['normal']):.0f} GiB", f"{needs['low']} GiB", f"{needs['ram']} GiB"
    for node in ("MemoSampler", "MemoSampleToFile"):
        assert f"normal: everything in VRAM, {normal} at 512 x 512" in NODES[node]["inputs"]["memory_mode"]["tooltip"]
    sampler = (ROOT / "web" / "docs" / "MemoSampler.md").read_text(encoding="utf-8")
    for page in (README, sampler):
        assert all(figure in page for figure in (normal, low, ram))
    alone = vram(512, SamplerSettings(guidance_scale=1.0))["normal"]
    assert f"normal needs {alone} GiB" in (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
