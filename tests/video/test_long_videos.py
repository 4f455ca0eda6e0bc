"""A video of any length into a file: what is in it, what it says, and that it continues after whatever stopped it."""

from dataclasses import replace
from fractions import Fraction
from itertools import count

import av
import numpy as np
import pytest
import torch

from memo_modules.errors import InputError, StorageError
from memo_modules.files import whole_files
from memo_modules.host import Host
from memo_modules.portrait.pasting import Pasting, mask, paste
from memo_modules.sampler.sampling import sample_video
from memo_modules.types import Audio, Crop
from memo_modules.video import long_videos
from memo_modules.video.formats import VideoFormat
from memo_modules.video.journal import Inputs, Journal, opened
from memo_modules.video.long_videos import LongVideo, sample_to_file
from tests.helpers.tiny_video import FACE, FAST, HAPPY, PORTRAIT, SIZE, speech

LOSSLESS = VideoFormat("ffv1")
FRAMES = 40  # two clips and a half


def sound(frames: int, fps: Fraction = Fraction(30), rate: int = 16000) -> Audio:
    samples = int(frames * rate / fps)
    return Audio(torch.rand(2, samples, generator=torch.Generator().manual_seed(5)) * 2 - 1, rate)


PLAIN = LongVideo(speech(FRAMES), 0, (SIZE, SIZE), sound(FRAMES), LOSSLESS, Fraction(30), {"workflow": '{"nodes": []}'})


@pytest.fixture
def make(tiny_nets, tiny_vae, tmp_path):
    """Makes the file of a video, going on from the journal; returns its path, its state and what was said."""
    numbers = count()

    def run(video: LongVideo = PLAIN, start=None, progress=lambda *_: None, target=None):
        def sample(state, done):
            options = {"state": state, "done": done, "lead_in": video.lead_in, "host": Host(progress)}
            return sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, video.audio, HAPPY, FAST, **options)

        said, path = [], target or tmp_path / f"video_{next(numbers)}{video.format.suffix}"
        with opened(tmp_path / "journals", "video", Inputs({**video.of_clips(), "lead_in": str(video.lead_in)}, {})) as journal:
            path, state = sample_to_file(video, journal, sample, lambda: path, start=start, host=Host(say=said.append))
        return path, state, said

    return run


def contents(path) -> tuple[np.ndarray, np.ndarray, dict]:
    """Pictures (f h w 3), samples (channels n) and metadata of a file."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        metadata = dict(container.metadata)
    with av.open(str(path)) as container:
        heard = [frame.to_ndarray() for frame in container.decode(audio=0)] if container.streams.audio else []
    return np.stack(pictures), np.concatenate(heard, axis=-1) if heard else np.empty((0, 0)), metadata


@pytest.fixture(scope="module")
def frames(tiny_nets, tiny_vae) -> np.ndarray:
    """The frames (f h w 3) that the sampler makes, 0 to 255."""
    clips = sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, speech(FRAMES), HAPPY, FAST)
    return (torch.cat([clip.frames for clip in clips]) * 255).round().byte().movedim(1, -1).numpy()


def test_the_file_holds_the_frames_the_sound_and_the_workflow(make, frames):
    path, state, _ = make()
    pictures, heard, metadata = contents(path)
    assert np.array_equal(pictures, frames)
    packed = heard.reshape(-1, 2).T if heard.shape[0] == 1 else heard
    assert packed.shape == PLAIN.sound.waveform.shape
    assert np.abs(packed / 2**31 - PLAIN.sound.waveform.numpy()).max() <= 2**-24, "to the last of the 24 bits that flac holds"
    assert metadata["workflow"] == '{"nodes": []}'
    assert state.clips == 3 and state.last_frames == FRAMES - 32


class Stopped(Exception):
    pass


def stopping_after(steps: int):
    """A function that raises when a step more than so many, its first argument, begins, or at once where that is no number."""

    def stop(done=1, *_, **__):
        if not isinstance(done, int) or done > steps:
            raise Stopped

    return stop


def photo_of(width: int = 161, height: int = 121) -> torch.Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(7))


PASTING = Pasting(photo_of(), Crop(30, 20, 90, (161, 121)), 0.1, "border")


def test_pasted_into_a_photo_the_file_is_what_pasting_the_frames_gives(make, frames):
    """With the colours of the first clip for all."""
    path, *_ = make(replace(PLAIN, pasting=PASTING))
    pictures, *_ = contents(path)
    assert pictures.shape == (FRAMES, 121, 161, 3)
    given = torch.from_numpy(frames).float() / 255
    first = paste(PASTING.photo, given[:16], PASTING.crop, 0.1, "border")
    assert np.abs(pictures[:16].astype(int) - (first * 255).round().numpy()).max() <= 1  # of frames that were rounded
    plain, outside = replace(PASTING, color_match="off"), mask(PASTING.crop, 0.1)[0] == 0
    pictures, *_ = contents(make(replace(PLAIN, pasting=plain))[0])
    expected = (paste(PASTING.photo, given, PASTING.crop, 0.1) * 255).round().numpy()
    assert np.abs(pictures.astype(int) - expected).max() <= 1
    around = (PASTING.photo[0, outside] * 255).round().byte().numpy()
    assert all(np.array_equal(picture[outside], around) for picture in pictures)


def test_pasted_an_odd_photo_loses_a_row_in_yuv420p(make):
    path, _, said = make(replace(PLAIN, format=VideoFormat(), pasting=PASTING))
    assert contents(path)[0].shape == (FRAMES, 120, 160, 3)
    assert said[0].startswith("3 clips, 40 frames, about ")


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_pasted_and_stopped_anywhere_the_file_is_that_of_one_run(make, tmp_path, monkeypatch, steps):
    video = replace(PLAIN, format=VideoFormat(), pasting=PASTING)
    expected = make(video)[0].read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        if steps == 3:
            patch.setattr(long_videos, "join_segments", stopping_after(0))
        make(video, progress=stopping_after(steps))
    assert len(list((tmp_path / "journals").glob("*/colours.json"))) == (steps > 0)
    assert make(video)[0].read_bytes() == expected


@pytest.mark.parametrize("other", [{"feather": 0.2}, {"color_match": "off"}, {"crop": Crop(31, 20, 90, (161, 121))}, {"photo": 1 - photo_of()}])
def test_another_photo_or_place_starts_over(make, other):
    with pytest.raises(Stopped):
        make(replace(PLAIN, pasting=PASTING), progress=stopping_after(2))
    *_, said = make(replace(PLAIN, pasting=replace(PASTING, **other)))
    assert said[0].startswith(f"Starting over, because these changed: {next(iter(other))}. ")


def test_what_is_pasted_is_square_and_belongs_to_the_photo():
    with pytest.raises(InputError, match="width, height: expected equal numbers, since the crop is a square, got 64 and 128"):
        replace(PLAIN, size=(64, 128), pasting=PASTING)
    with pytest.raises(InputError, match="photo: expected the picture that was cropped, 161 x 121 pixels, got 160 x 121"):
        replace(PASTING, photo=photo_of(160))


def test_it_says_what_comes_and_how_long_it_takes(make):
    *_, said = make()
    assert said[0].startswith("3 clips, 40 frames, about ") and said[0].endswith((" kB.", " MB."))
    assert said[1] == "Clip 1 of 3"
    assert said[2].startswith("Clip 2 of 3, 0:00:0") and " left, about " in said[2]
    assert said[-1] == "Joining 40 frames"


def test_one_is_said_as_one(make):
    path, _, said = make(replace(PLAIN, audio=speech(1), sound=None))
    assert said[0].startswith("1 clip, 1 frame, about ") and said[-1] == "Joining 1 frame"


def test_how_long_the_video_is_and_its_file_are_said_last():
    assert PLAIN.done("video/a.mp4") == "Done: 40 frames, 0:01.3, video/a.mp4"
    assert replace(PLAIN, fps=Fraction(60)).done("a.mp4") == "Done: 80 frames, 0:01.3, a.mp4"


@pytest.mark.parametrize("when", ["named", "not named", "taken"])
def test_killed_when_the_file_had_its_name_the_video_is_not_made_twice(make, tmp_path, monkeypatch, when):
    with monkeypatch.context() as killed:
        if when == "named":
            killed.setattr(Journal, "remove", interrupt)
        else:  # before it has the name; then somebody else may take that
            killed.setattr(whole_files, "_claim", interrupt)
        with pytest.raises(Stopped):
            make(target=tmp_path / "a.mkv")
    if when == "taken":
        (tmp_path / "a.mkv").write_text("theirs")
    path, state, _ = make(target=tmp_path / "a.mkv")
    assert path.name == ("a_2.mkv" if when == "taken" else "a.mkv") and state.clips == 3
    assert len(list(tmp_path.glob("*.mkv"))) == (2 if when == "taken" else 1)
    assert not list((tmp_path / "journals").iterdir())
    again, _, _ = make(target=tmp_path / "a.mkv")
    assert again != path and len(contents(again)[0]) == FRAMES, "what is finished is made anew when that is asked for"


def interrupt(*_):
    raise Stopped


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_stopped_anywhere_the_file_is_that_of_one_run(make, tmp_path, monkeypatch, steps):
    """After so many clips: in the middle of one, between two, and while they are joined."""
    expected, *_ = make()
    expected = expected.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        if steps == 3:
            patch.setattr(long_videos, "join_segments", stopping_after(0))
        make(progress=stopping_after(steps))
    assert [path.name for path in tmp_path.glob("video_*")] == ["video_0.mp4"]
    path, state, said = make()
    assert path.read_bytes() == expected and state.clips == 3
    assert said[0].startswith(f"Continuing after clip {steps}. 3 clips" if steps else "3 clips")
    assert not any((tmp_path / "journals").iterdir())


def test_a_full_disk_is_named_and_nothing_is_lost(make, tmp_path, monkeypatch):
    expected, *_ = make()
    write = long_videos.write_segment

    def fail(path, *rest):
        if path.name.startswith("clip-00002"):
            raise StorageError("full")
        write(path, *rest)

    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(long_videos, "write_segment", fail)
        make()
    path, _, said = make()
    assert said[0].startswith("Continuing after clip 2.") and path.read_bytes() == expected.read_bytes()


def test_a_disk_without_room_is_named_before_the_work(make, monkeypatch):
    monkeypatch.setattr(long_videos.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match=r"making 3 clips needs \d+\.\d kB in addition to the video, but only 1\.0 kB is free\. Free some space"):
        make()


def test_what_has_changed_is_said(make):
    with pytest.raises(Stopped):
        make(progress=lambda done, *_: (_ for _ in ()).throw(Stopped) if done == 2 else None)
    *_, said = make(replace(PLAIN, format=VideoFormat()))
    assert said[0].startswith("Starting over, because these changed: format. 3 clips")


def stop_after(clips: int):
    return lambda done, *_: (_ for _ in ()).throw(Stopped) if done == clips else None


def test_with_a_mended_sound_it_continues(make):
    """And with another audio_codec: what an error advises costs no clip that is done."""
    with pytest.raises(Stopped):
        make(replace(PLAIN, format=VideoFormat()), progress=stop_after(3))
    mended = Audio(PLAIN.sound.waveform / 2, PLAIN.sound.sample_rate)
    path, _, said = make(replace(PLAIN, format=VideoFormat(audio_codec="pcm"), sound=mended))
    assert said[0].startswith("Continuing after clip 2.")
    _, heard, _ = contents(path)
    assert np.array_equal(heard.reshape(-1, 2).T if heard.shape[0] == 1 else heard, mended.waveform.numpy())


def test_a_sound_that_makes_other_clips_starts_over():
    """At another rate the sound decides how many frames the last clip has."""
    at_25 = replace(PLAIN, fps=Fraction(25))
    shorter = replace(at_25, sound=Audio(torch.zeros(1, 20801), 16000))  # forty frames at 30 all the same
    assert (shorter.frames, replace(at_25, sound=None).frames) == (33, 34)
    assert shorter.of_clips() != replace(at_25, sound=None).of_clips()
    assert PLAIN.of_clips() == replace(PLAIN, sound=None).of_clips() != at_25.of_clips()


@pytest.mark.parametrize("format", [VideoFormat(), VideoFormat(audio_codec="flac"), LOSSLESS], ids=lambda format: format.audio_codec)
def test_a_broken_sound_is_refused_before_the_first_clip(make, format):
    waveform = PLAIN.sound.waveform.clone()
    waveform[0, -1] = float("nan")
    with pytest.raises(InputError, match="^sound: 1 of 42666 samples are NaN or infinite"):
        make(replace(PLAIN, format=format, sound=Audio(waveform, 16000)), progress=stop_after(0))


def test_that_a_sound_is_clipped_is_said_before_the_first_clip(make):
    loud = Audio(PLAIN.sound.waveform * 32767, 16000)
    *_, said = make(replace(PLAIN, format=VideoFormat(), sound=loud))
    assert "sound: expected samples in [-1, 1], got up to 32766; what is beyond is clipped in aac. Is it 16-bit integers" in said[0]
    *_, said = make(replace(PLAIN, format=VideoFormat("ffv1", audio_codec="pcm"), sound=loud))
    assert "clipped" not in said[0], "pcm holds them"


def test_a_lead_in_leaves_the_length_as_it_is(make, frames):
    path, state, said = make(replace(PLAIN, lead_in=1))
    pictures, _, _ = contents(path)
    assert pictures.shape == frames.shape and not np.array_equal(pictures, frames)
    assert state.clips == 4 and said[0].startswith("4 clips, 40 frames")


@pytest.mark.parametrize(("fps", "expected"), [(Fraction(60), 80), (Fraction(25), 34), (Fraction(24000, 1001), 32), (Fraction(8), 11)])
def test_another_rate_shows_the_nearest_frames(make, frames, fps, expected):
    path, _, _ = make(replace(PLAIN, fps=fps))
    pictures, heard, _ = contents(path)
    nearest = [min(int((k + Fraction(1, 2)) / fps * 30), FRAMES - 1) for k in range(expected)]
    assert np.array_equal(pictures, frames[nearest])


def test_a_video_continues_in_another_file(make, frames):
    first, rest = PLAIN.audio.split(1)
    head = make(replace(PLAIN, audio=first, sound=sound(16)))
    tail = make(replace(PLAIN, audio=rest, sound=sound(24)), start=head[1])
    pictures = [contents(path)[0] for path, *_ in (head, tail)]
    assert np.array_equal(np.concatenate(pictures), frames)


def test_a_file_that_is_there_is_never_replaced(make, tmp_path):
    target = tmp_path / "mine.mp4"
    target.write_bytes(b"mine")
    path, *_ = make(target=target)
    assert path.name == "mine_2.mp4" and target.read_bytes() == b"mine"


def test_without_sound_it_is_silent(make, frames):
    path, *_ = make(replace(PLAIN, sound=None))
    pictures, heard, _ = contents(path)
    assert np.array_equal(pictures, frames) and not heard.size
