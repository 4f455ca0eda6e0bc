"""The evaluation measures what it says: near perfect on true videos, and each corruption shows in its own figure."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from memo_modules.audio import emotion
from memo_modules.errors import InputError
from memo_modules.sampler.sampling import sample_video
from memo_modules.types import EMOTIONS, SamplerSettings
from tools import evaluate
from tools.evaluation import report, running
from tools.evaluation.distances import distances, farther
from tools.evaluation.figures import figures, lag_correlations
from tools.evaluation.intervals import differences, intervals
from tools.evaluation.keeping import Kept
from tools.evaluation.reader import Training, load_reader, obtain_reader
from tools.evaluation.readings import borders, read
from tools.evaluation.rendering import Model, sound_of
from tools.evaluation.running import Results, Setup, run
from tools.evaluation.variants import BASE, TRUTH, VAE, VARIANTS, Case, again, long_cases, short_cases
from tools.small_world import MOODS

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64
SECONDS = 2.2
TINY_TRAINING = Training(characters=60, held_out=8, clips=12, epochs=12)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def reader_file(tmp_path_factory, one_thread):
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    obtain_reader(path, TINY_TRAINING)
    return path


@pytest.fixture(scope="module")
def reader(reader_file):
    return load_reader(reader_file)


@pytest.fixture(scope="module")
def videos():
    """Case to true clip and its frames."""
    return {case: (clip := case.clip(), clip.frames(SIZE)) for case in short_cases(1, SECONDS)}


@pytest.fixture(scope="module")
def truth(reader, videos):
    return [read(case, clip, frames, reader) for case, (clip, frames) in videos.items()]


def changed(reader, videos, change):
    """Readings of the true frames as ``change`` makes them of a case's number, its frames and all frames."""
    every = [frames for _, frames in videos.values()]
    return [read(case, clip, change(i, frames, every), reader) for i, (case, (clip, frames)) in enumerate(videos.items())]


def test_true_videos_are_near_perfect(truth):
    found = figures(truth)
    assert found["lip_sync_correlation"] > 0.98
    assert found["lip_sync_lag_frames"] == 0
    assert found["mouth_opening_error"] < 0.05
    assert found["mood_accuracy"] > 0.8
    assert np.sum(found["mood_confusion"]) == 4 * 3  # 66 frames are four clips, of which the first does not count
    assert found["identity_distance"] < 0.8
    assert found["backdrop_error"] < 0.005
    assert 0.7 < found["seam_ratio"] < 1.4
    assert found["sharpness"] == pytest.approx(1)
    assert found["seconds_per_clip"] is None and found["identity_drift"] is None


def test_a_late_mouth_has_a_lag_above_zero(reader, videos):
    late = figures(changed(reader, videos, lambda i, frames, every: np.concatenate((frames[:1].repeat(3, 0), frames[:-3]))))
    assert late["lip_sync_lag_frames"] == 3
    assert late["lip_sync_correlation"] > 0.95 > late["lip_sync_correlation_at_0"] + 0.1
    early = figures(changed(reader, videos, lambda i, frames, every: np.concatenate((frames[3:], frames[-1:].repeat(3, 0)))))
    assert early["lip_sync_lag_frames"] == -3


def test_lips_of_another_voice_or_still_ones_do_not_follow(reader, videos):
    assert figures(changed(reader, videos, lambda i, frames, every: every[(i + 1) % len(every)]))["lip_sync_correlation"] < 0.5
    still = figures(changed(reader, videos, lambda i, frames, every: frames[:1].repeat(len(frames), 0)))
    assert (still["lip_sync_correlation"], still["lip_sync_lag_frames"], still["seam_ratio"]) == (0, 0, None)


def test_faces_of_another_mood_are_told(reader, videos):
    wrong = figures(changed(reader, videos, lambda i, frames, every: every[(i + 1) % len(every)]))
    assert wrong["mood_accuracy"] < 0.2
    counts = np.array(wrong["mood_confusion"])
    assert sum(counts[i, (i + 1) % 4] for i in range(4)) > 0.7 * counts.sum()
    assert [video["mood_seen"] for video in wrong["per_video"]] != [video["mood"] for video in wrong["per_video"]]


def test_a_character_that_becomes_another_drifts(reader):
    case, other = Case(0, 0, "neutral", 6), Case(1, 0, "neutral", 6)
    clip, stranger = case.clip(), other.clip()
    frames, late = clip.frames(SIZE), stranger.frames(SIZE, 90)
    still_there = read(case, clip, frames, reader)
    gone = read(case, clip, np.concatenate((frames[:90], late)), reader)
    true, drifted = figures([still_there], [still_there]), figures([gone], [gone])
    assert abs(true["identity_drift"]) < 0.2 and abs(true["backdrop_drift"]) < 0.005
    assert drifted["identity_drift"] > 0.4 and drifted["identity_slope_per_minute"] > 2
    assert drifted["backdrop_drift"] > 0.05
    assert true["blinks_per_minute"] >= 0 and true["long_seconds"] == 6


def test_intervals_hold_the_figures_and_differences_are_of_the_same_videos(reader, videos, truth):
    found, sure = figures(truth, truth), intervals(truth, truth)
    of_short = {"lip_sync_correlation", "mood_accuracy", "identity_distance", "seam_ratio", "sharpness", "blinks_per_minute"}
    assert set(sure) == of_short | {"identity_drift"}
    for name, (low, high) in sure.items():
        assert low <= found[name] + 1e-6 and found[name] - 1e-6 <= high, name
    assert intervals(truth[:3], truth[:1]) == {}, "too few to tell"
    eyes = [np.ones_like(reading.eyes) for reading in truth]
    for number, each in enumerate(eyes):  # two blinks in every second video
        each[0, [5, 6, 20][: 3 * (number % 2)]] = 0
    blinking = [replace(reading, eyes=each) for reading, each in zip(truth, eyes, strict=True)]
    low, high = intervals(blinking)["blinks_per_minute"]
    assert 0 <= low < figures(blinking)["blinks_per_minute"] < high and differences(blinking, [], truth, [])["blinks_per_minute"][1] > 0
    same = differences(truth, [], truth, [])
    assert all(interval == [0.0, 0.0] for interval in same.values()) and "identity_drift" not in same
    soft = changed(reader, videos, lambda i, frames, every: ((frames.astype(int) + np.roll(frames, 1, axis=2)) // 2).astype(np.uint8))
    assert differences(soft, [], truth, [])["sharpness"][1] < -0.05
    assert differences(soft[:2], [], truth, []) == {}, "of other videos"


def test_a_jump_at_clip_borders_is_a_seam(reader, videos):
    def jumpy(i, frames, every):
        return np.concatenate([np.roll(part, 2 * (n % 2), axis=2) for n, part in enumerate(np.split(frames, range(16, len(frames), 16)))])

    assert figures(changed(reader, videos, jumpy))["seam_ratio"] > 2
    assert list(borders(48)) == [15, 31] and list(borders(49)) == [15, 31, 47]


def test_a_soft_picture_is_less_sharp_and_a_tinted_one_has_another_backdrop(reader, videos):
    soft = figures(
        changed(
            reader,
            videos,
            lambda i, frames, every: ((frames.astype(int) + np.roll(frames, 1, axis=2) + np.roll(frames, 1, axis=1)) // 3).astype(np.uint8),
        )
    )
    assert soft["sharpness"] < 0.9
    tinted = figures(changed(reader, videos, lambda i, frames, every: (frames * 0.9).astype(np.uint8)))
    assert 0.03 < tinted["backdrop_error"] < 0.12


def test_lags_are_pooled_over_videos(truth):
    pooled = lag_correlations(truth)
    assert set(pooled) == set(range(-5, 6))
    assert pooled[0] > pooled[1] > pooled[3]


def test_a_reader_is_trained_once_and_again_after_a_change(tmp_path):
    path, lines = tmp_path / "reader.safetensors", []
    training = Training(characters=4, held_out=2, clips=5, epochs=1)
    first = obtain_reader(path, training, lines.append)
    count = len(lines)
    again = obtain_reader(path, training, lines.append)
    assert len(lines) == count and again.figures == first.figures
    assert all(torch.equal(a, b) for a, b in zip(again.net.state_dict().values(), first.net.state_dict().values(), strict=True))
    obtain_reader(path, replace(training, seed=1), lines.append)
    assert len(lines) == 2 * count


def test_the_reader_sees_what_it_should(reader):
    assert reader.figures["mood_accuracy"] > 0.7
    assert reader.figures["same_character"] < 0.8


def test_cases_have_voices_of_their_own_and_neutral_portraits():
    cases = short_cases(2, 1.6)
    assert len({case.voice for case in cases}) == len(cases) == 8
    assert {case.mood for case in cases} == set(MOODS)
    assert np.array_equal(cases[0].portrait(SIZE), cases[3].portrait(SIZE))
    assert not np.array_equal(cases[0].portrait(SIZE), cases[4].portrait(SIZE))
    assert not np.array_equal(cases[0].clip().audio, cases[1].clip().audio)


@pytest.fixture(scope="module")
def model(tiny_models):
    return Model(tiny_models, tiny_models / "memo" / "tiny", SIZE)


def frames_of(model, key, case, settings):
    return model.render(case, VARIANTS[key], VARIANTS[key].settings(settings)).frames


@pytest.mark.slow
def test_memory_reset_at_each_step_is_memory_reset_every_clip_and_not_the_carried_one(model):
    case, fast = Case(0, 0, "happy", 1.6), SamplerSettings(steps=2)  # three clips
    carried, clip, step = (frames_of(model, key, case, fast).astype(int) for key in (BASE, "reset_every_clip", "reset_every_step"))
    assert carried.shape == (48, SIZE, SIZE, 3)
    assert np.array_equal(clip, step)
    assert np.array_equal(carried[:16], clip[:16])  # there is nothing to forget yet
    assert np.abs(carried[16:] - clip[16:]).max() > 0


@pytest.mark.parametrize("key", [BASE, "mood_heard", "reference_aligned"])
def test_a_variant_is_what_the_library_samples(model, key):
    case = Case(0, 3, "happy", 0.8)
    pipeline, given = model.pipeline, model.condition(case, heard=False)
    mood = emotion.constant_emotion(EMOTIONS.index("happy"))
    if key == "mood_heard":
        mood = emotion.detect_emotion(*pipeline.emotion_models, sound_of(case))
    settings = SamplerSettings(steps=1, seed=42 + 3, reference_order="aligned" if key == "reference_aligned" else "upstream")
    clips = sample_video(pipeline.nets, pipeline.vae, given.portrait, given.face, given.audio, mood, settings)
    expected = (torch.cat([clip.frames for clip in clips]) * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    rendered = model.render(case, VARIANTS[key], VARIANTS[key].settings(SamplerSettings(steps=1)))
    assert np.array_equal(rendered.frames, expected)
    assert len(rendered.frames) == 24 and len(rendered.seconds) == 2


def test_a_run_takes_equal_variants_over_and_writes_everything(tiny_models, reader_file, tmp_path):
    keys = [TRUTH, VAE, BASE, "reset_every_clip", "reset_every_step"]
    setup = Setup(tiny_models, tiny_models / "memo" / "tiny", reader_file, SamplerSettings(steps=1), size=SIZE)
    lines = []
    results = run(setup, keys, short_cases(1, 0.8)[1:2], long_cases(1, 1.1), say=lines.append)
    assert results["reset_every_step"].same and not results["reset_every_clip"].same
    assert len(lines) == 2 + 1 + 2 + 2 + 1  # what equals another variant is rendered once
    assert results["reset_every_step"].long[0] is results["reset_every_clip"].long[0]

    variants = report.entries(results, setup.settings, {"name": "this", "workers": 1})
    assert variants["reset_every_step"]["equal_to"] == "reset_every_clip"
    assert variants[TRUTH]["lip_sync_correlation"] > 0.95
    assert variants[TRUTH]["settings"] is None and variants[BASE]["settings"]["memory"] == "carried"
    assert variants[VAE]["mouth_opening_error"] > 2 * variants[TRUTH]["mouth_opening_error"]  # random weights
    assert variants[BASE]["seconds_per_clip"] > 0
    conditions = {"base": {"steps": 1, "guidance_scale": 3.5}, "cases": {"identities": 1, "seconds": 0.6, "long_seconds": 0.0}}
    document = dict.fromkeys(("model", "reader"), 1) | conditions | {"variants": variants}
    for path in report.write_pictures(tmp_path, results, variants):
        assert path.stat().st_size > 1000
    table = report.table(document)
    assert "±" not in table and "=" not in table, "one video says nothing about chance"
    *rows, _, said = table.splitlines()
    assert len(rows) == 2 + len(keys) and "–" in table and "1 steps, guidance 3.5. Videos: 4 of 0.6 s." in said

    file = tmp_path / "results.json"
    report.write_json(file, document)
    report.write_json(file, document | {"variants": {BASE: variants[BASE] | {"title": "anew"}}})
    kept = json.loads(file.read_text(encoding="utf-8"))["variants"]
    assert list(kept) == keys and kept[BASE]["title"] == "anew"
    report.write_json(file, document | {"model": 2, "variants": {BASE: variants[BASE]}})
    assert list(json.loads(file.read_text(encoding="utf-8"))["variants"]) == [BASE]


def test_the_table_says_how_sure_it_is(truth):
    results = {key: Results(truth, []) for key in (TRUTH, BASE)}
    variants = report.entries(results, lambda key: SamplerSettings(), {})
    assert variants[TRUTH]["minus_base"].keys() >= {"identity_distance", "sharpness"} and "minus_base" not in variants[BASE]
    cases = {"identities": 1, "seconds": SECONDS, "long_seconds": 0.0}
    table = report.table({"base": {"steps": 1, "guidance_scale": 1.0}, "cases": cases, "variants": variants})
    assert "1.00 ± 0.00 =" in table and "no difference from “memory carried (as published)” seen" in table


@pytest.mark.slow
def test_a_variant_that_turns_out_different_is_rendered_whole(tiny_models, reader_file, monkeypatch):
    monkeypatch.setitem(VARIANTS, "other", replace(VARIANTS["reset_every_step"], changes={"seed": 1}))
    setup = Setup(tiny_models, tiny_models / "memo" / "tiny", reader_file, SamplerSettings(steps=1), size=SIZE)
    short = short_cases(1, 0.6)[:2]
    results = run(setup, ["reset_every_clip", "other"], short)
    assert not results["other"].same
    assert [reading.case for reading in results["other"].short] == short


def test_a_run_that_was_stopped_continues_with_what_is_missing(tiny_models, reader_file, tmp_path, monkeypatch):
    """The cheapest videos come first; another seed, model or setting is another reading."""
    base = SamplerSettings(steps=1, guidance_scale=1.0)
    setup = Setup(tiny_models, tiny_models / "memo" / "tiny", reader_file, base, size=SIZE, kept=Kept(tmp_path / "readings", ("model",)))
    case, keys, made = short_cases(1, 0.6)[:1], ["guidance_2", TRUTH, BASE], []
    read_one = running.Worker.read

    def stops(worker, key, case):
        if key == "guidance_2":
            raise KeyboardInterrupt
        made.append(key)
        return read_one(worker, key, case)

    monkeypatch.setattr(running.Worker, "read", stops)
    with pytest.raises(KeyboardInterrupt):
        run(setup, keys, case)
    assert made == [TRUTH, BASE] and len(list((tmp_path / "readings").iterdir())) == 2
    monkeypatch.setattr(running.Worker, "read", lambda worker, key, case: (made.append(key), read_one(worker, key, case))[1])
    lines: list[str] = []
    results = run(setup, keys, case, say=lines.append)
    assert made == [TRUTH, BASE, "guidance_2"] and lines[0] == "2 of 3 videos were made before."
    repeated = run(setup, keys, case)
    for key in keys:
        [first], [second] = results[key].short, repeated[key].short
        assert first.case == second.case and first.seconds == second.seconds and first.digest == second.digest
        assert all(
            np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True) for name in ("opening", "backdrop", "shown", "sampled")
        )
        assert (len(first.shown) > 0) == (key == BASE), "pictures of the variant that is shown alone"
    others = (replace(setup, kept=Kept(tmp_path / "readings", ("other",))), replace(setup, base=replace(base, seed=1)), replace(setup, size=96))
    assert len({each.place(BASE, case[0]) for each in (setup, *others)}) == 4


def test_distances_are_in_units_of_two_seeds(truth):
    """A video half way from the solution to one of another seed deviates by a half; one that is the same for all seeds has no variety."""

    def shifted(by: int) -> Results:
        return Results([replace(reading, sampled=np.full_like(reading.sampled, 100 + by)) for reading in truth], [])

    results = {"converged": shifted(0), again("converged"): shifted(40), "fast": shifted(20), again("fast"): shifted(20), "draft": shifted(-10)}
    found = distances(results, "fast")
    assert (found["deviation"], found["variety"]) == (0.5, 0.0) and found["distance_intervals"]["deviation"] == [0.5, 0.5]
    found = distances(results, "draft")
    assert (found["deviation"], found["variety"]) == (0.25, None)
    assert distances(results, "fast_guided")["deviation"] is None
    values = {"distances_per_video": {"deviation": [0.5, 0.6, 0.7, 0.8], "variety": []}}
    nearer = {"distances_per_video": {"deviation": [0.4, 0.5, 0.6, 0.7], "variety": []}}
    assert farther(values, nearer)["deviation"] == pytest.approx([0.1, 0.1]) and list(farther(values, nearer)) == ["deviation"]
    assert farther(values, {"distances_per_video": {"deviation": [0.4]}}) == farther(values, {}) == {}
    entries = report.entries({TRUTH: Results(truth, []), **results}, lambda key: SamplerSettings(), {})
    table = report.table(
        {"base": {"steps": 1, "guidance_scale": 1.0}, "cases": {"identities": 1, "seconds": 1, "long_seconds": 0}, "variants": entries}
    )
    assert "| deviation | variety |" in table and "| 0.50 | 0.00 |" in table.replace(" ± 0.00", "")


def test_a_student_needs_its_recipe(tiny_models):
    with pytest.raises(InputError, match="--student: .*tiny was not distilled"):
        evaluate.recipe_of(tiny_models / "memo" / "tiny")


def test_speed_is_one_command():
    arguments = evaluate.parse(["--speed", "--set", "seed=5"])
    assert arguments.base == SamplerSettings(6, 1.0, 5) and arguments.identities * len(MOODS) == 24 and arguments.long_identities == 6
    assert {"fast", "fast_guided", "draft", "turbo", "published", "past_every_4"} <= set(arguments.variants) <= set(VARIANTS)


def test_settings_are_read_by_name():
    assert evaluate.base_settings(["steps=5", "guidance_scale=2", "reference_order=aligned"]) == SamplerSettings(5, 2.0, reference_order="aligned")
    with pytest.raises(ValueError, match="expected NAME=VALUE with a name of steps"):
        evaluate.base_settings(["stops=5"])
