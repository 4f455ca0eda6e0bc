"""Vocal separation: the real audio-separator on a network that hands its input on."""

import sys
import weakref

import numpy as np
import pytest
import torch

from memo_modules.audio.vocals import VocalSeparator
from memo_modules.errors import CheckpointError, InputError, MissingPackageError
from memo_modules.host import Host
from memo_modules.types import Audio

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def write_identity(path, shape=("batch", 4, 3072, 16)):
    picture = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape)) for name in ("input", "output")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["input"], ["output"])], "mdx", picture[:1], picture[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def separator(tmp_path_factory):
    path = write_identity(tmp_path_factory.mktemp("séparateur de voix") / "Kim_Vocal_2.onnx")
    return VocalSeparator.load(path, cuda=False)


def tones(rate: int, samples: int, *amplitudes: float) -> Audio:
    time = torch.arange(samples) / rate
    return Audio(torch.stack([a * torch.sin(2 * torch.pi * (440 + 110 * i) * time) for i, a in enumerate(amplitudes)]), rate)


@pytest.mark.parametrize(
    "audio, channels",
    [(tones(44100, 60001, 0.5, 0.2), 2), (tones(44100, 50000, 3.0, 1.0), 2), (tones(16000, 20000, 0.01), 1), (tones(48000, 30000, 0.3, 0.3, 0.3), 1)],
    ids=["stereo", "loud", "quiet", "three channels"],
)
def test_vocals_keep_length_rate_loudness_and_place(separator, audio, channels):
    vocals = separator.separate(audio)
    assert vocals.sample_rate == audio.sample_rate
    assert vocals.waveform.shape == (channels, audio.waveform.shape[1]) and vocals.waveform.dtype == torch.float32
    expected = audio.waveform if channels == 2 else audio.waveform.mean(dim=0, keepdim=True)
    middle = slice(audio.waveform.shape[1] // 8, -audio.waveform.shape[1] // 8)
    assert (vocals.waveform - expected)[:, middle].abs().max() < 3e-3 * expected.abs().max()


def test_vocals_beyond_all_measure_are_refused(tmp_path, monkeypatch):
    """Numbers that float32 just holds are none any more in the wave that they make."""
    separator = VocalSeparator.load(write_identity(tmp_path / "Kim_Vocal_2.onnx"))
    monkeypatch.setattr(separator.open()[1], "model_run", lambda picture: np.full(picture.shape, 3e38, np.float32))
    with pytest.raises(CheckpointError, match="Kim_Vocal_2.onnx makes vocals that are NaN, infinite or beyond all measure"):
        separator.separate(Audio(torch.rand(2, 44100) - 0.5, 44100))


def test_vocals_are_told_by_the_mix_and_the_network_that_made_them(separator, tmp_path):
    """A GPU computes them with other last bits the next time."""
    mix, quieter = tones(44100, 9000, 0.5), tones(44100, 9000, 0.4)
    other = VocalSeparator.load(write_identity(tmp_path / "Kim_Vocal_2.onnx", ("batch", 4, 2048, 16)), cuda=False)
    made_of = [each.separate(sound).made_of for each, sound in ((separator, mix), (separator, mix), (separator, quieter), (other, mix))]
    assert made_of[0] == made_of[1] and len(set(made_of)) == 3


@pytest.mark.parametrize("samples", [1, 7680, 15361])
def test_silence_and_any_length_stay_finite(separator, samples):
    with torch.inference_mode():
        vocals = separator.separate(Audio(torch.zeros(2, samples), 44100)).waveform
    assert vocals.shape == (2, samples) and not vocals.any()


def test_the_network_never_hears_more_than_the_usual_peak(separator, monkeypatch):
    heard, package_separator = [], separator.open()[1]
    demix = package_separator.demix
    monkeypatch.setattr(package_separator, "demix", lambda mix: heard.append(abs(mix).max()) or demix(mix))
    separator.separate(tones(44100, 9000, 1.0, 1.0))
    separator.separate(tones(44100, 9000, 0.1, 0.1))
    assert heard == pytest.approx([0.9, 0.1], rel=1e-3)


def test_progress_counts_every_chunk_and_cancel_stops_at_the_next(separator):
    class Cancelled(Exception):
        pass

    def cancel_after_two():
        if len(calls) == 2:
            raise Cancelled

    audio, calls = tones(44100, 44100, 0.5, 0.5), []
    separator.separate(audio, Host(lambda *done: calls.append(done)))
    assert calls == [(i, calls[-1][1]) for i in range(1, calls[-1][1] + 1)] and len(calls) > 3
    calls.clear()
    with pytest.raises(Cancelled):
        separator.separate(audio, Host(lambda done, total: calls.append(done), cancel_after_two))
    assert calls == [1, 2]
    assert separator.separate(audio).waveform.any()


def test_release_drops_the_session_and_the_next_use_reopens_it(separator):
    audio = tones(44100, 20000, 0.5, 0.5)
    before = separator.separate(audio).waveform
    session = weakref.ref(separator.open()[1])
    separator.release()
    assert session() is None and not separator.is_open
    assert torch.equal(separator.separate(audio).waveform, before)


def test_bad_audio_is_refused(separator):
    with pytest.raises(InputError, match="audio is empty"):
        separator.separate(Audio(torch.zeros(2, 0), 44100))
    with pytest.raises(InputError, match="NaN"):
        separator.separate(Audio(torch.full((1, 100), float("nan")), 44100))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="gone.onnx is missing"):
        VocalSeparator.load(tmp_path / "gone.onnx")
    whole = write_identity(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cut.onnx cannot be read"):
        VocalSeparator.load(tmp_path / "cut.onnx")
    for shape in ((1, 3, 640, 640), (1, 4, 3072, 200), (1, 4, 9999, 256), (1, 4, 3072, 4)):
        with pytest.raises(CheckpointError, match="foreign.onnx is not an MDX vocal separator"):
            VocalSeparator.load(write_identity(tmp_path / "foreign.onnx", shape))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "audio_separator.separator.architectures", None)
    with pytest.raises(MissingPackageError, match="audio-separator"):
        VocalSeparator.load(write_identity(tmp_path / "Kim_Vocal_2.onnx"))
