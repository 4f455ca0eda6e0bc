"""Hours of use in minutes: a long video, and hundreds of prompts of which some are cancelled and some fail."""

import random
import re
import shutil
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from tests.helpers.graphs import PORTRAIT, find, frames_of, node, saving_frames, talking_portrait, to_file, write_wav
from tools.comfyui_server import ComfyUIServer, ServerError

pytestmark = pytest.mark.slow

MINUTES, PROMPTS = 10, 200
GROWTH = 50e6  # bytes


@pytest.fixture
def server(comfyui_path, tiny_models, tmp_path):
    """A ComfyUI of the test's own, and with what nodes it needs."""
    (tmp_path / "custom_nodes").mkdir()
    shutil.copy(Path(__file__).resolve().parents[1] / "helpers" / "probe_nodes.py", tmp_path / "custom_nodes")
    with ComfyUIServer(comfyui_path, tmp_path, tiny_models) as server:
        yield server


def resident(server) -> int:
    return psutil.Process(server.process.pid).memory_info().rss


def test_memory_does_not_grow_with_the_length(server, tmp_path):
    voice = write_wav(tmp_path / "long.wav", MINUTES * 60 * 16000, 16000)
    image, audio = {"image": server.add_input(PORTRAIT)}, {"audio": server.add_input(voice)}
    prompt = to_file(talking_portrait(LoadImage=image, LoadAudio=audio, MemoSampler={"steps": 2, "guidance_scale": 1.0}), codec="h264")
    sizes = {}

    def look(kind, data):
        if kind == "progress_text" and (clip := re.match(r"Clip (\d+) of (\d+)", data["text"])):
            sizes[int(clip[1])] = resident(server)

    outputs = server.run(prompt, look, timeout=3 * 3600)
    clips = MINUTES * 60 * 30 // 16
    assert list(sizes) == list(range(1, clips + 1))
    before = max(size for clip, size in sizes.items() if clip <= 10)  # between clips now more, now less is in use
    growth = max(sizes.values()) - before
    print(f"{clips} clips: {before / 1e6:.0f} MB up to clip 10, at most {growth / 1e6:+.1f} MB more after it")
    [entry] = outputs[find(prompt, "MemoSampleToFile")]["images"]
    with av.open(str(server.output_file(entry))) as container:
        assert sum(1 for _ in container.decode(video=0)) == MINUTES * 60 * 30
    with av.open(str(server.output_file(entry))) as container:
        heard = sum(frame.samples for frame in container.decode(audio=0))
    assert 0 <= heard - MINUTES * 60 * 16000 <= 1024, "a whole frame of aac"
    assert growth < GROWTH


def test_cancelled_and_failing_prompts_leave_nothing_behind(server, tmp_path):
    """Every fifth is cancelled at a random moment, every seventh runs out of memory; all others make the right frames."""
    choose, sizes, right = random.Random(0), [], 0
    image = {"image": server.add_input(PORTRAIT)}
    audio = {"audio": server.add_input(write_wav(tmp_path / "voice.wav", 8000, 16000))}

    def graph(seed: int) -> dict:
        return talking_portrait(LoadImage=image, LoadAudio=audio, MemoSampler={"steps": 2, "seed": seed, "guidance_scale": 1.0, "memory_mode": "low"})

    def cancelling(moment: int):
        def cancel(kind, data):
            if kind == "progress" and data["max"] == 2 and data["value"] >= moment:
                server.interrupt()

        return cancel

    expected = {seed: frames_of(server, server.run(saving_frames(graph(seed)))).astype(int) for seed in range(3)}
    for number in range(PROMPTS):
        prompt = to_file(graph(number % 3), filename_prefix=f"soak/{number}")
        sampler = prompt[find(prompt, "MemoSampleToFile")]
        if number % 5 == 4:
            with pytest.raises(ServerError, match="interrupted"):
                server.run(prompt, cancelling(choose.randint(0, 1)))
        elif number % 7 == 6:
            prompt["failing"] = node("FailingModel", model=sampler["inputs"]["model"], call=choose.randint(1, 2))
            sampler["inputs"]["model"] = ["failing", 0]
            with pytest.raises(ServerError, match="on purpose"):
                server.run(prompt)
        else:
            [entry] = server.run(prompt)[find(prompt, "MemoSampleToFile")]["images"]
            with av.open(str(server.output_file(entry))) as container:
                frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
            assert np.abs(frames - expected[number % 3]).max() <= 1, "PNG rounds down"
            right += 1
        sizes.append(resident(server))
    seen = ", ".join(f"{size / 1e6:.0f}" for size in [*sizes[20::20], sizes[-1]])
    print(f"{right} of {PROMPTS} right, the others stopped; MB after 20, 40 ... prompts: {seen}")
    assert max(sizes[20:]) - sizes[20] < GROWTH
    assert not list((tmp_path / "output").rglob("*.part"))
