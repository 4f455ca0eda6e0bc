"""Babble with a speaker and a mood: random syllables through a source and a filter, from a seed.

The source is a sum of harmonics (voice) and noise (breath, fricatives, bursts); the filter five formants that move
from sound to sound. Harmonics are summed instead of filtered, so formants glide without clicks and nothing loops over
samples.
"""

from dataclasses import dataclass

import numpy as np

from tools.small_world.seeds import random_state, smooth

SAMPLE_RATE = 16000
STEP = 80
"""Samples between two values of a control track (5 ms)."""

VOWELS = np.array(
    [
        (280, 2250, 2950, 3600, 4500),
        (430, 2000, 2650, 3600, 4500),
        (640, 1720, 2500, 3500, 4500),
        (760, 1250, 2550, 3500, 4500),
        (500, 880, 2450, 3400, 4400),
        (330, 760, 2300, 3300, 4400),
        (490, 1400, 2400, 3400, 4400),
    ],
    dtype=np.float64,
)
"""Formants in Hz, from the front of the mouth to the back; the last one is in its middle."""

NASAL = np.array((260, 1050, 2200, 3200, 4400), dtype=np.float64)
LIQUID = np.array((370, 1150, 2500, 3300, 4400), dtype=np.float64)
BANDWIDTHS = np.array((75, 95, 140, 200, 280), dtype=np.float64)
LOUDNESS = 0.07
"""Root mean square of a neutral voice, pauses included."""

TOP = 7400.0
"""Hz above which there are no harmonics, well below half the sample rate."""

ONSETS = ("none", "stop", "fricative", "nasal", "liquid")
ONSET_ODDS = (0.12, 0.36, 0.22, 0.16, 0.14)


@dataclass(frozen=True)
class Speaker:
    """pitch: Hz. formants: factor on all of them, above 1 for a shorter throat. breath: 0..1. tilt: dB per octave on
    top of the mood's. tempo: factor."""

    pitch: float
    formants: float
    breath: float
    tilt: float
    tempo: float


@dataclass(frozen=True)
class Manner:
    """How a mood speaks. pitch, tempo, pause: factors. span: semitones. energy: dB. tilt: dB per octave that the
    voice falls. breath: 0..1 added. tremor: semitones at 6 Hz."""

    pitch: float = 1.0
    span: float = 3.0
    tempo: float = 1.0
    pause: float = 1.0
    energy: float = 0.0
    tilt: float = 8.0
    breath: float = 0.0
    tremor: float = 0.0


MANNERS = {
    "angry": Manner(pitch=1.18, span=5.0, tempo=1.2, pause=0.7, energy=5.0, tilt=4.5),
    "disgusted": Manner(pitch=0.9, span=4.0, tempo=0.85, pause=1.1, energy=0.0, tilt=6.5),
    "fearful": Manner(pitch=1.4, span=3.0, tempo=1.25, pause=1.2, energy=-3.0, tilt=9.5, breath=0.35, tremor=0.6),
    "happy": Manner(pitch=1.28, span=7.0, tempo=1.12, pause=0.8, energy=2.5, tilt=6.5),
    "neutral": Manner(),
    "other": Manner(),
    "sad": Manner(pitch=0.86, span=1.3, tempo=0.72, pause=1.6, energy=-6.0, tilt=11.5, breath=0.25),
    "surprised": Manner(pitch=1.38, span=9.0, tempo=1.0, pause=1.1, energy=2.0, tilt=7.0),
    "unknown": Manner(),
}


def speaker(seed: int) -> Speaker:
    """The voice of the character with this ``seed``; high voices have short throats, as people's have."""
    random = random_state(seed, "speaker")
    height = random.uniform()
    return Speaker(
        pitch=float(95 * 2 ** (1.3 * height)),
        formants=float(0.94 + 0.22 * height + random.uniform(-0.04, 0.04)),
        breath=float(random.uniform(0.05, 0.5)),
        tilt=float(random.uniform(-1.0, 1.0)),
        tempo=float(random.uniform(0.92, 1.08)),
    )


def babble(who: Speaker, moods: list[str], seed: int) -> np.ndarray:
    """float32 (samples) in (-1, 1): babble in phrases with pauses between them.

    moods: the mood of each control step; the sound lasts len(moods) · STEP samples.
    """
    score = _Score(who, moods, random_state(seed, "syllables"))
    sound = _harmonics(score) + _noise(score, random_state(seed, "noise"))
    # Pitch, throat and tilt all change the loudness; what is left of it shall be the mood's alone.
    sound *= LOUDNESS * np.sqrt(np.mean(score.energy**2) / np.mean(sound**2))
    sound = np.where(np.abs(sound) > 0.5, np.sign(sound) * (1 - 0.25 / np.maximum(np.abs(sound), 0.5)), sound)  # no hard clipping
    # On a grid of 16 bits, so that the last bits of another machine's sines do not show.
    return (np.round(sound * 32767) / 32768).astype(np.float32)


class _Score:
    """Control tracks, one value per STEP: what is spoken when. Amplitudes are linear, formants and pitch in Hz."""

    def __init__(self, who: Speaker, moods: list[str], random: np.random.RandomState):
        steps = len(moods)
        self.who, self.random = who, random
        self.manners = [MANNERS[mood] for mood in moods]
        self.voice, self.hiss, self.accent = np.zeros(steps), np.zeros(steps), np.zeros(steps)
        self.formants, self.hiss_hz = np.tile(VOWELS[-1], (steps, 1)), np.full(steps, 3000.0)
        at = int(random.uniform(20, 60))
        while at < steps:
            at = self._phrase(at)
        self.tilt = smooth(np.array([m.tilt for m in self.manners]) + who.tilt, 20)
        self.breath = smooth(np.array([m.breath for m in self.manners]) + who.breath, 20)
        self.energy = 10 ** (smooth(np.array([m.energy for m in self.manners]), 20) / 20)
        self.voice, self.hiss = smooth(self.voice, 1.8) * self.energy, smooth(self.hiss, 1.2) * self.energy
        self.formants = who.formants * np.stack([smooth(track, 4) for track in self.formants.T], axis=1)
        self.pitch = self._pitch()

    def _phrase(self, at: int) -> int:
        """Two to eight syllables from step ``at``; returns the step after the pause that follows."""
        count, manner = self.random.randint(2, 9), self.manners[min(at, len(self.manners) - 1)]
        for i in range(count):
            if at >= len(self.manners):
                return at
            # The melody falls through a phrase, and each syllable has an accent of its own.
            self.accent[at:] = 0.5 - i / max(1, count - 1) + 0.6 * self.random.uniform(-1, 1)
            at = self._syllable(at, last=i == count - 1)
        self.accent[at:] = 0.0
        return at + int(self.random.uniform(50, 130) * manner.pause)

    def _syllable(self, at: int, last: bool) -> int:
        random, manner = self.random, self.manners[at]
        speed = manner.tempo * self.who.tempo
        loud = 10 ** (random.uniform(-12, 3) / 20)
        at = self._onset(at, random.choice(ONSETS, p=ONSET_ODDS), loud, speed)
        stop = at + int(random.uniform(20, 40) * (1.4 if last else 1.0) / speed)
        self.formants[at:] = VOWELS[random.randint(len(VOWELS))]
        part = (np.arange(at, min(stop, len(self.voice))) - at + 0.5) / (stop - at)
        self.voice[at:stop] = loud * (0.3 + 2.8 * part * (1 - part))  # a syllable swells and dies away
        return stop

    def _onset(self, at: int, kind: str, loud: float, speed: float) -> int:
        random = self.random
        stop = at + int({"none": 2, "stop": 12, "fricative": random.uniform(14, 24), "nasal": 12, "liquid": 9}[kind] / speed)
        if kind == "stop":  # nothing while the lips or the tongue are shut, then they burst open
            self.hiss[stop - 2 : stop + 2] = 0.9 * loud
            self.hiss_hz[at : stop + 4] = random.choice((900, 2200, 4200))
        elif kind == "fricative":
            self.hiss[at:stop] = 0.35 * loud
            self.hiss_hz[at:stop] = random.uniform(2400, 6000)
        elif kind in ("nasal", "liquid"):
            self.formants[at:stop] = NASAL if kind == "nasal" else LIQUID
            self.voice[at:stop] = {"nasal": 0.3, "liquid": 0.5}[kind] * loud
        return stop

    def _pitch(self) -> np.ndarray:
        steps = np.arange(len(self.manners))
        base = np.array([m.pitch for m in self.manners])
        span = np.array([m.span for m in self.manners])
        tremor = np.array([m.tremor for m in self.manners]) * np.sin(2 * np.pi * 6 * steps * STEP / SAMPLE_RATE)
        wander = smooth(self.random.standard_normal(len(steps)), 6)
        semitones = span * smooth(self.accent, 8) + tremor + 0.6 * wander
        return self.who.pitch * smooth(base, 20) * 2 ** (semitones / 12)


def _resonance(score: _Score, hz: np.ndarray) -> np.ndarray:
    """Gain of the five formants at frequencies ``hz`` (steps, n): (steps, n)."""
    gain = np.ones_like(hz)
    for track, bandwidth in zip(score.formants.T, BANDWIDTHS, strict=True):
        centre = track[:, None] ** 2
        gain *= centre / np.sqrt((centre - hz**2) ** 2 + (bandwidth * hz) ** 2)
    return gain


def _harmonics(score: _Score) -> np.ndarray:
    """The voice: (samples) as a sum of the pitch's multiples."""
    steps = np.arange(len(score.pitch)) * STEP
    samples = np.arange(len(score.pitch) * STEP)
    phase = 2 * np.pi / SAMPLE_RATE * np.cumsum(np.interp(samples, steps, score.pitch))
    orders = np.arange(1, int(TOP / score.pitch.min()) + 1)
    hz = score.pitch[:, None] * orders
    gain = score.voice[:, None] * _resonance(score, hz) * (hz / 200) ** (-score.tilt[:, None] / 6.02) * np.clip((TOP - hz) / 400, 0, 1)
    twice_cosine, before, sine = 2 * np.cos(phase), np.zeros(len(phase)), np.sin(phase)
    voice = np.zeros(len(phase))
    for order in orders:
        voice += np.interp(samples, steps, gain[:, order - 1]) * sine
        before, sine = sine, twice_cosine * sine - before  # sin((k+1)x) from the two before it
    return voice


def _noise(score: _Score, random: np.random.RandomState) -> np.ndarray:
    """Breath through the formants, bursts and fricatives around their own frequency, a floor far below: (samples)."""
    steps, size = len(score.voice), 4 * STEP
    white = random.standard_normal((steps + 3) * STEP)
    frames = np.lib.stride_tricks.sliding_window_view(white, size)[::STEP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)[None].repeat(steps, axis=0)
    breath = 0.05 * score.breath[:, None] * score.voice[:, None] * _resonance(score, hz) * np.clip(hz / 1000, 0, 1)
    hiss = 0.14 * score.hiss[:, None] * np.exp(-0.5 * ((hz - score.hiss_hz[:, None]) / (200 + 0.22 * score.hiss_hz[:, None])) ** 2)
    shaped = np.fft.irfft(np.fft.rfft(frames * window, axis=1) * (breath + hiss + 3e-4), size, axis=1) / 2
    added = np.zeros((steps + 3) * STEP)
    for quarter in range(4):  # four windows overlap everywhere
        part = shaped[:, quarter * STEP : (quarter + 1) * STEP].reshape(-1)
        added[quarter * STEP : quarter * STEP + len(part)] += part
    return added[STEP : STEP + steps * STEP]
