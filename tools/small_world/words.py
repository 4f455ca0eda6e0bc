"""Real words with a speaker and a mood, from a seed: sentences that the program espeak-ng speaks, in phrases.

espeak-ng is free (`apt-get install espeak-ng`; a program under GPLv3, whose output is not) and only needed where words are
made: worlds that are written, and the demo's voice. Pitch, melody, tempo, energy, tilt and breath are those of voices.py,
so that a mood sounds alike in both.
"""

import io
import shutil
import subprocess
import wave
from functools import cache

import numpy as np

from tools.small_world.seeds import random_state
from tools.small_world.voices import LOUDNESS, MANNERS, SAMPLE_RATE, STEP, Manner, Speaker

SENTENCES = tuple(
    line.split()
    for line in """
    Good morning and thank you for coming today
    My name is on the door but nobody ever reads it
    I would like a cup of tea with milk and two sugars please
    The train to the city leaves at half past seven
    We walked along the river until the sun went down
    Please remember to water the flowers while we are away
    She bought a yellow umbrella because it never stops raining
    Every window in the house was open that evening
    Can you tell me how to get to the market from here
    My brother plays the piano but he never plays it for me
    There is nothing better than fresh bread in the morning
    They found an old map behind the picture of the ship
    I have waited for you since five o'clock
    The little boat moved slowly over the deep blue water
    We should all go home before it gets too dark
    He told me a story about a fox and a clever bird
    Do not forget the keys on the kitchen table
    Our neighbours have a very small dog with a very big voice
    The film was much longer than I had thought
    Somebody left a box of apples in front of the shop
    You are welcome to stay as long as you like
    It was warm outside so we had lunch under the trees
    Where did you put the book that I gave you
    The people in this village make wonderful cheese
    I believe that he knows more than he wants to say
    Give me five minutes and I will show you how it works
    On Monday we will move into a bigger room
    The moon was so bright that we could read by it
    What a beautiful garden you have behind your house
    Nobody knew why the old clock had suddenly stopped
    Come in and close the door before the wind does it
    My mother used to sing this song when I was young
    We have never been so far away from home before
    The baker up the hill makes pies from pumpkins and plums
    Perhaps we could meet again on Friday afternoon
    Half of the money belongs to me and half of it to you
    A cold wind blew the papers all over the floor
    He opened his mouth but not one word came out
    Let me show you the best view of the mountains
    I am a small model and I can talk
    """.strip().splitlines()
)
"""Of all sounds of English, and of words that anybody knows."""

VOICES = ("", "+m1", "+m3", "+m4", "+m7", "+f1", "+f2", "+f3", "+f4")
"""Variants of the American voice, the first four and the plain one low, the others high."""

LOW, LOWEST_HIGH = 5, 155.0
"""How many of VOICES are low, and Hz from which on a speaker has one of the others."""

SECONDS_PER_WORD = 0.34
WORDS_PER_MINUTE = 175
NEUTRAL_SPAN, NEUTRAL_TILT, NEUTRAL_BREATH = 3.0, 8.0, 0.2
"""What a manner is where espeak-ng's own voice is left as it is."""

PITCHES = np.linspace(70, 400, 331)
"""Hz in which a voice is looked for."""


def speak(who: Speaker, moods: list[str], seed: int, text: str | None = None) -> np.ndarray:
    """float32 (samples) in (-1, 1): words in phrases with pauses between them, as babble gives syllables.

    moods: the mood of each control step; the sound lasts len(moods) · STEP samples. A phrase has the mood in which it
    begins. text: what is said, once and from its beginning; by default parts of SENTENCES. Raises RuntimeError where there
    is no espeak-ng.
    """
    random, steps, voice = random_state(seed, "words"), len(moods), _variant(who)
    sound, energy = np.zeros(steps * STEP), np.zeros(steps)
    at, words = int(random.uniform(15, 50)), text.split() if text else []
    while at < steps and (words or not text):
        manner = MANNERS[moods[at]]
        if not words:
            words = list(SENTENCES[random.randint(len(SENTENCES))])
            words = words[random.randint(max(1, len(words) // 3)) :]  # clips shall not all begin with beginnings
        lasts = next((i for i, mood in enumerate(moods[at:]) if mood != moods[at]), steps - at) * STEP / SAMPLE_RATE
        count = min(random.randint(2, 7), max(1, round(lasts * manner.tempo / SECONDS_PER_WORD)))
        phrase, words = words[:count], words[count:]
        spoken = _phrase(" ".join(phrase) + ("" if words else "."), who, manner, voice, random)
        start = at * STEP
        spoken = spoken[: len(sound) - start]
        sound[start : start + len(spoken)] += spoken
        stop = at - -len(spoken) // STEP
        energy[at:stop] = 10 ** (manner.energy / 20)
        at = stop + int(random.uniform(*((5, 25) if words else (40, 100))) * manner.pause)
    loud = np.sqrt(np.mean(sound**2)) + 1e-9
    sound *= LOUDNESS * np.sqrt(np.mean(energy**2)) / loud
    sound += 3e-5 * random.standard_normal(len(sound))  # no recording is quite silent
    sound = np.where(np.abs(sound) > 0.5, np.sign(sound) * (1 - 0.25 / np.maximum(np.abs(sound), 0.5)), sound)  # no hard clipping
    return (np.round(sound * 32767) / 32768).astype(np.float32)


def _variant(who: Speaker) -> str:
    """The one of VOICES that a speaker has."""
    variants = VOICES[:LOW] if who.pitch < LOWEST_HIGH else VOICES[LOW:]
    # a speaker has no seed, but pitch and breath of its own
    return variants[random_state(int(who.pitch * 1e6) ^ int(who.formants * 1e6), "variant").randint(len(variants))]


def _phrase(text: str, who: Speaker, manner: Manner, voice: str, random: np.random.RandomState) -> np.ndarray:
    """float64 (samples at SAMPLE_RATE): the words alone, no silence around them, as loud as the manner speaks."""
    target = who.pitch * manner.pitch * 2 ** (0.5 * random.uniform(-1, 1) / 12)
    # What is played faster afterwards, for a shorter throat, is spoken as much lower and slower.
    octaves = np.log2(target / who.formants / _own_pitch(voice))
    rate = WORDS_PER_MINUTE * manner.tempo * who.tempo / who.formants
    wave_, hz = _espeak(
        text, voice, int(np.clip(round(50 + 50 * octaves), 0, 99)), int(np.clip(rate, 90, 320)), round(100 * manner.span / NEUTRAL_SPAN)
    )
    spoken = _resampled(wave_, SAMPLE_RATE / (hz * who.formants))
    spoken /= np.sqrt(np.mean(spoken**2)) + 1e-9
    return _coloured(spoken, who.tilt + manner.tilt - NEUTRAL_TILT, who.breath + manner.breath - NEUTRAL_BREATH, random) * 10 ** (manner.energy / 20)


def _coloured(spoken: np.ndarray, tilt: float, breath: float, random: np.random.RandomState) -> np.ndarray:
    """``spoken`` with ``tilt`` dB per octave more of fall above 200 Hz, and with noise that goes with its loudness; as loud as before."""
    hz = np.fft.rfftfreq(len(spoken), 1 / SAMPLE_RATE)
    out = np.fft.irfft(np.fft.rfft(spoken) * (np.maximum(hz, 200) / 200) ** (-tilt / 6.02), len(spoken))
    if breath > 0:
        envelope = np.sqrt(np.convolve(out**2, np.hanning(400) / np.hanning(400).sum(), mode="same"))
        noise = np.fft.irfft(np.fft.rfft(random.standard_normal(len(out))) * np.clip(hz / 1500, 0, 1), len(out))
        out = out + 0.25 * breath * envelope * noise
    return out / (np.sqrt(np.mean(out**2)) + 1e-9)


def _resampled(sound: np.ndarray, factor: float) -> np.ndarray:
    """``factor`` times as many samples, of the same frequencies up to the lower of the two limits."""
    count = max(1, round(len(sound) * factor))
    spectrum = np.fft.rfft(sound)
    return np.fft.irfft(spectrum[: count // 2 + 1], count) * factor if count < len(sound) else np.fft.irfft(spectrum, count) * factor


@cache
def _own_pitch(voice: str) -> float:
    """Hz of a variant at espeak-ng's pitch 50."""
    sound, hz = _espeak("we were away all the way and you were away", voice, 50, WORDS_PER_MINUTE, 100)
    size, found = 2048, []
    for start in range(0, len(sound) - size, size // 2):
        segment = sound[start : start + size] * np.hanning(size)
        likeness = np.fft.irfft(np.abs(np.fft.rfft(segment, 2 * size)) ** 2)
        lags = (hz / PITCHES).round().astype(int)
        if likeness[lags].max() > 0.5 * likeness[0] > 0:
            found.append(PITCHES[likeness[lags].argmax()])
    return float(np.median(found))


@cache
def _program() -> str:
    program = shutil.which("espeak-ng")
    if program is None:
        raise RuntimeError("Voices with words need the program espeak-ng: apt-get install espeak-ng, or make the world without words.")
    return program


def _espeak(text: str, voice: str, pitch: int, rate: int, span: int) -> tuple[np.ndarray, int]:
    """float64 (samples) without the silence around them, and their rate. span: of the melody, percent of its own."""
    marked = f'<speak><prosody range="{span}%">{text}</prosody></speak>'
    command = [_program(), "-m", "-v", f"en-us{voice}", "-p", str(pitch), "-s", str(rate), "-z", "--stdout", marked]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(data)) as file:
        hz = file.getframerate()
    # espeak-ng cannot know how long it will speak when it writes the header
    sound = np.frombuffer(data[44 : 44 + (len(data) - 44) // 2 * 2], dtype="<i2").astype(np.float64) / 32768
    heard = np.flatnonzero(np.abs(sound) > 0.003)
    return (sound[heard[0] : heard[-1] + 1] if len(heard) else np.zeros(hz // 10)), hz
