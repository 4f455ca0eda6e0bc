"""wav2vec2 features: frame arithmetic, the encoder against transformers' own, loading."""

import json
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from memo_modules.audio import features
from memo_modules.audio.features import AudioEncoder, encode_audio, load_audio_encoder, prepare_waveform, upstream_length
from memo_modules.clips import frame_rate
from memo_modules.errors import CheckpointError, InputError
from memo_modules.types import Audio, AudioFeatures

transformers = pytest.importorskip("transformers")

TABLE = json.loads((Path(__file__).resolve().parents[1] / "golden" / "10_frame_count_table.json").read_text(encoding="utf-8"))

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}


def noise(samples: int, rate: int = 16000, channels: int = 1) -> Audio:
    return Audio(torch.randn(channels, samples, generator=torch.Generator().manual_seed(samples)) * 0.1, rate)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny wav2vec2 with a head, saved by transformers itself, and the model it came from."""
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**TINY)).eval()
    folder = tmp_path_factory.mktemp("wav2vec2 é")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def encoder(published):
    return load_audio_encoder(published[0])


@pytest.mark.parametrize("row", TABLE["rows"], ids=lambda row: f"{row['samples']}@{row['fps']}")
def test_upstream_length_is_the_reference_implementations(row):
    assert upstream_length(row["samples"], Fraction(row["fps"]), row["clip"]) == (row["padded_frames"], row["padded_samples"])


@pytest.mark.parametrize("row", TABLE["float_hazards"], ids=lambda row: f"{row['samples']}@{row['fps']}")
def test_exact_timing_gains_no_frame_where_upstream_does(row):
    fps = Fraction(row["fps"])
    assert upstream_length(row["samples"], fps, 1)[0] == row["ceil_gives"]
    assert prepare_waveform(noise(row["samples"]), fps, 1, "exact")[1] == row["true_frames"]


@pytest.mark.parametrize("fps", [24, 25, 30, 23.976023976, 29.97, 12.5])
@pytest.mark.parametrize("samples, rate", [(16000, 16000), (16001, 16000), (44100, 44100), (44101, 44100), (70007, 48000), (8000, 8000)])
def test_exact_timing_covers_whole_clips_without_stretch(samples, rate, fps):
    fps = frame_rate(fps)
    waveform, frames = prepare_waveform(noise(samples, rate, 2), fps, 16, "exact")
    true_frames = math.ceil(Fraction(samples, rate) * fps)
    assert frames == -(-true_frames // 16) * 16
    assert waveform.shape == (1, math.ceil(frames * 16000 / fps))


@pytest.mark.parametrize("timing", ["exact", "upstream"])
def test_the_wave_is_normalised_before_it_is_padded(timing):
    audio = noise(20000)
    waveform, _ = prepare_waveform(Audio(audio.waveform + 3, 16000), Fraction(24), 16, timing)
    speech, padding = waveform[0, :20000], waveform[0, 20000:]
    assert abs(speech.mean()) < 1e-5 and abs(speech.square().mean() - 1) < 1e-3
    assert len(padding) > 0 and not padding.any()
    expected = (audio.waveform[0] - audio.waveform.mean()) / audio.waveform.std(correction=0)
    assert torch.allclose(speech, expected, atol=1e-3)


@pytest.mark.parametrize("samples, rate, kept, padded", [(1470, 44100, 1, 16), (1471, 44100, 2, 16), (44100, 44100, 30, 32), (51201, 48000, 33, 48)])
def test_frames_to_keep_count_the_audio_as_it_came(encoder, samples, rate, kept, padded):
    # 1470 samples at 44.1 kHz are one frame at 30 fps; the 534 that they become at 16 kHz would be two.
    encoded = encode_audio(encoder, noise(samples, rate), Fraction(30))
    assert (encoded.frame_count, encoded.fps, encoded.clip_frames, encoded.timing) == (kept, 30, 16, "exact")
    assert encoded.hidden_states.shape == (padded, 3, 24) and encoded.hidden_states.dtype == torch.float32


@pytest.mark.parametrize("samples, fps", [(639, 25), (533, 30), (1, 25)])
def test_audio_shorter_than_a_frame_is_refused(encoder, samples, fps):
    with pytest.raises(InputError, match="audio is shorter than one frame"):
        encode_audio(encoder, noise(samples), Fraction(fps))


def test_one_frame_is_enough(encoder):
    assert encode_audio(encoder, noise(640), Fraction(25)).frame_count == 1


def test_other_bad_input_is_refused(encoder):
    with pytest.raises(InputError, match="audio is empty"):
        encode_audio(encoder, Audio(torch.zeros(1, 0), 16000), Fraction(25))
    with pytest.raises(InputError, match="audio: 9000 of 9000 samples are NaN"):
        encode_audio(encoder, Audio(torch.full((1, 9000), float("nan")), 16000), Fraction(25))
    with pytest.raises(InputError, match="timing"):
        encode_audio(encoder, noise(9000), Fraction(25), timing="fast")


def test_states_are_those_of_transformers(published, encoder):
    waveform = noise(16000).waveform * 10
    with torch.inference_mode():
        wanted = published[1].wav2vec2(waveform).last_hidden_state[0]
        found = encoder(waveform, len(wanted))  # as many frames as convolution outputs: nothing to interpolate
    assert found.shape == (49, 3, 24)
    assert (found[:, -1] - wanted).abs().max() < 5e-5 * wanted.abs().max()


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("samples", [4000, 16123])
def test_convolving_in_chunks_changes_nothing(monkeypatch, norm, samples):
    torch.manual_seed(1)
    encoder = AudioEncoder(TINY | {"feat_extract_norm": norm})
    waveform = noise(samples).waveform * 10 + torch.linspace(0, 5, samples)
    with torch.inference_mode():
        whole = encoder.feature_extractor(waveform)
        monkeypatch.setattr(features, "_CHUNK", 7)
        chunked = encoder._convolve(waveform, lambda: None)
    assert chunked.shape == whole.shape
    assert (chunked - whole).abs().max() < 2e-5 * whole.abs().max()


def test_what_was_heard_is_told_to_the_sample(encoder):
    """By which a video is continued, or begun anew when a word is another."""
    voice, before = noise(40_000), noise(30_000)

    def with_another(sound: Audio, place: int) -> Audio:
        waveform = sound.waveform.clone()
        waveform[0, place] += 2**-15
        return Audio(waveform, 16000)

    heard = [(voice, None), (voice, before), (Audio(voice.waveform, 16001), None)]
    heard += [(with_another(voice, place), None) for place in (0, 4096, 20_001, 39_999)]
    heard += [(voice, with_another(before, place)) for place in (1, 29_999)]
    digests = [encode_audio(encoder, sound, Fraction(30), previous=previous).heard for sound, previous in heard]
    assert len(set(digests)) == len(heard) and digests[0] == encode_audio(encoder, noise(40_000), Fraction(30)).heard
    features = encode_audio(encoder, voice, Fraction(30))
    assert {part.heard for part in features.split(2)} == {digests[0]}


def test_interrupt_reaches_the_caller(encoder):
    class Cancelled(Exception):
        pass

    def cancel():
        raise Cancelled

    with pytest.raises(Cancelled):
        encode_audio(encoder, noise(16000), Fraction(25), check_interrupt=cancel)


def test_windows_cross_clips_and_repeat_the_ends():
    states = torch.arange(48.0)[:, None, None].expand(48, 2, 3)
    audio = AudioFeatures(states, Fraction(30), 48, 16)
    first, middle, last = (audio.windows(start, start + 16) for start in (0, 16, 32))
    assert first.shape == (16, 5, 2, 3)
    assert first[0, :, 0, 0].tolist() == [0, 0, 0, 1, 2]
    assert first[15, :, 0, 0].tolist() == [13, 14, 15, 16, 17]
    assert middle[0, :, 0, 0].tolist() == [14, 15, 16, 17, 18]
    assert last[15, :, 1, 2].tolist() == [45, 46, 47, 47, 47]


def test_every_parameter_belongs_to_a_layer(encoder):
    """What a model patcher can move: no parameter outside of a leaf module, no parametrization."""
    assert [name for name, module in encoder.named_modules() if list(module.children()) and list(module.parameters(recurse=False))] == []
    assert not any("parametriz" in key or "weight_g" in key for key in encoder.state_dict())


OLD_NAMES, NEW_NAMES = ("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")


@pytest.mark.parametrize("prefix", ["wav2vec2.", ""])
@pytest.mark.parametrize("names", [OLD_NAMES, NEW_NAMES])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_every_published_naming_loads(published, encoder, tmp_path, prefix, names, file):
    conv = "encoder.pos_conv_embed.conv."
    weights = {}
    for key, value in load_file(published[0] / "model.safetensors").items():
        key = key.removeprefix("wav2vec2.")
        for known, name in zip((*OLD_NAMES, *NEW_NAMES), names * 2, strict=True):
            key = conv + name if key == conv + known else key
        weights[key if key.startswith("lm_head") else prefix + key] = value
    assert any(key.endswith(names[0]) for key in weights)
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"model_type": "wav2vec2"}))
    save_file(weights, tmp_path / file) if file.endswith(".safetensors") else torch.save(weights, tmp_path / file)
    loaded = load_audio_encoder(tmp_path).state_dict()
    assert loaded.keys() == encoder.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in encoder.state_dict().items())


def test_a_half_precision_file_is_computed_in_float32(published, encoder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"model_type": "wav2vec2"}))
    save_file({key: value.half() for key, value in load_file(published[0] / "model.safetensors").items()}, tmp_path / "model.safetensors")
    assert {value.dtype for value in load_audio_encoder(tmp_path).state_dict().values()} == {torch.float32}


def test_bad_folders_are_named(published, tmp_path):
    with pytest.raises(CheckpointError, match="config.json is missing"):
        load_audio_encoder(tmp_path)
    config = TINY | {"model_type": "hubert"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="model_type is 'hubert'"):
        load_audio_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"model_type": "wav2vec2", "hidden_size": 48}))
    with pytest.raises(CheckpointError, match="model.safetensors is missing"):
        load_audio_encoder(tmp_path)
    whole = (published[0] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"has shape .* expected"):
        load_audio_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="model.safetensors cannot be read"):
        load_audio_encoder(tmp_path)


def test_a_folder_is_judged_without_torchs_compiler(published, monkeypatch):
    """The norm of a tensor without values would import it, for seconds, while ComfyUI lists its models."""

    def imports(*_, **__):
        raise AssertionError

    monkeypatch.setattr(torch.linalg, "vector_norm", imports)
    features.check_audio_encoder(published[0])


def test_an_unsupported_option_is_named():
    with pytest.raises(CheckpointError, match="do_stable_layer_norm"):
        AudioEncoder(TINY | {"do_stable_layer_norm": True, "feat_extract_norm": "layer"})


def test_in_small_parts_the_states_are_the_same(encoder, monkeypatch):
    """As hours are encoded: rows, neighbours and pairs of frames a few at a time."""
    waveform, frames = torch.randn(1, 48000, generator=torch.Generator().manual_seed(0)), 150
    with torch.inference_mode():
        whole = encoder(waveform, frames)
        monkeypatch.setattr(features, "_ROWS", 40)
        monkeypatch.setattr(features, "_PAIRS", 150 * 16)
        parts = encoder(waveform, frames)
        interpolated = torch.nn.functional.interpolate(waveform.view(1, 48, 1000), size=frames, mode="linear", align_corners=True)
        assert torch.equal(features._interpolated(waveform.view(1, 48, 1000), frames, lambda: None), interpolated)
    assert (parts - whole).abs().max() < 1e-5 * whole.abs().max()


def test_a_wave_normalised_in_parts_is_that_of_the_whole(monkeypatch):
    audio = Audio(noise(48000).waveform + torch.linspace(0, 3, 48000), 16000)
    whole, _ = prepare_waveform(audio, Fraction(30), 16, "exact")
    torch_whole = (audio.waveform - audio.waveform.mean()) / torch.sqrt(audio.waveform.var(correction=0) + 1e-7)
    assert (whole[:, :48000] - torch_whole).abs().max() < 2e-6
    monkeypatch.setattr(features, "_SAMPLES", 7000)
    asked = []
    assert (prepare_waveform(audio, Fraction(30), 16, "exact", lambda: asked.append(None))[0] - whole).abs().max() < 2e-6
    assert len(asked) >= 2 * 7


class Made(TorchDispatchMode):
    """Notes how many values each operation makes; the allocation alone and views make none."""

    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not function.is_view and "empty" not in str(function):
            self.note(str(function), made.numel())
        return made


def test_work_between_two_questions_whether_to_stop_is_bounded(encoder, monkeypatch):
    """Twenty minutes: no layer takes up more at a time than is done within a second on a slow machine."""
    frames, largest, asked = 36000, [], []
    made = Counter()
    monkeypatch.setattr(features, "_CHANNELS", 2)
    linear = torch.nn.functional.linear

    def attended(q, k, v, *rest, **options):
        largest.append(("pairs", q.shape[-2] * k.shape[-2], len(asked)))
        return torch.zeros_like(q)  # what comes out is of no interest

    def projected(x, *rest):
        largest.append(("rows", x.shape[-2], len(asked)))
        return linear(x, *rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attended)
    monkeypatch.setattr(torch.nn.functional, "linear", projected)
    wave = torch.zeros(1, frames * 16000 // 30)
    with torch.inference_mode(), Made(lambda function, values: made.update({(function, len(asked)): values})):
        encoder(wave, frames, lambda: asked.append(None))
    # whole, the convolutions' output and the features of all frames have 960,000 and 864,000 values
    assert max(made.values()) < 300_000, made.most_common(3)
    for kind, most in (("pairs", 2**22), ("rows", 1024)):
        between = Counter()
        for what, amount, when in largest:
            between[when] += amount * (what == kind)
        # some linears follow one another without a question: queries, output, and the two of the feed-forward
        assert 0 < max(between.values()) <= (4 if kind == "rows" else 1) * most, kind


def test_the_lips_follow_one_of_two_channels_that_cancel_each_other(encoder):
    voice = noise(20_000)
    inverted = Audio(torch.cat([voice.waveform, -voice.waveform]), 16000)
    alone, both = (encode_audio(encoder, sound, Fraction(30)).hidden_states for sound in (voice, inverted))
    assert torch.equal(both, alone)
    after = encode_audio(encoder, voice, Fraction(30), previous=inverted).hidden_states
    assert torch.equal(after, encode_audio(encoder, voice, Fraction(30), previous=voice).hidden_states)


def test_a_levelled_voice_is_another_one_and_off_by_default(encoder):
    walking = Audio(noise(40_000).waveform * torch.cat([torch.ones(20_000), torch.full((20_000,), 0.1)]), 16000)
    plain, levelled = (encode_audio(encoder, walking, Fraction(30), level=level) for level in (False, True))
    assert torch.equal(plain.hidden_states, encode_audio(encoder, walking, Fraction(30)).hidden_states)
    assert plain.heard != levelled.heard and plain.hidden_states.shape == levelled.hidden_states.shape
    even = encode_audio(encoder, noise(40_000), Fraction(30)).hidden_states
    away = slice(40, 70)
    assert (levelled.hidden_states - even)[away].norm() < 0.5 * (plain.hidden_states - even)[away].norm()


def test_of_hours_each_frame_hears_what_is_around_it(encoder, monkeypatch):
    """So that time grows with the length, and not with its square."""
    monkeypatch.setattr(features, "_ROWS", 8)
    monkeypatch.setattr(features, "_HEARD", 32)
    layer, hidden = encoder.encoder.layers[0], torch.randn(1, 101, 24, generator=torch.Generator().manual_seed(0))
    changed = torch.cat((hidden[:, :60], -hidden[:, 60:]), dim=1)

    def made(hidden, pairs=features._PAIRS):
        monkeypatch.setattr(features, "_PAIRS", pairs)
        with torch.inference_mode():
            return features._through_layer(layer, hidden, torch.empty(hidden.shape[1:]), lambda: None)[0]

    ours, others = made(hidden), made(changed)
    assert torch.equal(ours[:48], others[:48]) and not torch.isclose(ours[48:56], others[48:56]).all(1).any()
    assert torch.allclose(made(hidden, pairs=8), ours, atol=1e-6), "however many frames are taken up at a time"
    monkeypatch.setattr(features, "_HEARD", 101)
    assert not torch.allclose(made(hidden)[:48], ours[:48], atol=1e-4) and not torch.equal(made(hidden)[:8], made(changed)[:8])
