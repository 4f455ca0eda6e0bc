"""Where a long recording is cut into clips: wherever its picture is cut, and in pauses of the voice."""

import torch

from .looking import cuts
from .videos import Video

_WINDOW = 0.02
"""Seconds of sound that are measured at a time."""

_PAUSE = 0.2
"""Seconds of quiet that make a pause."""

_QUIET = 0.03
"""Loudness of a pause, as a share of that of speech: 30 dB below."""


def spans(video: Video, longest: float) -> list[tuple[int, int]]:
    """Frames start..stop-1 of clips that follow one another: none has a cut in it, and none lasts more than ``longest`` seconds. It ends
    in the last pause that it can, or where there is none after ``longest``."""
    times = [float(time - video.times[0]) for time in video.times]
    borders = [0, *cuts(video.changes), len(times)]
    quiet, found = pauses(video), []
    for start, stop in zip(borders, borders[1:], strict=False):
        while times[stop - 1] - times[start] > longest:
            latest = times[start] + longest
            ends = [pause for pause in quiet if times[start] + longest / 2 < pause <= latest]
            end = max(ends, default=latest)
            border = next(k for k in range(start + 1, stop) if times[k] >= end)
            found.append((start, border))
            start = border
        found.append((start, stop))
    return found


def pauses(video: Video) -> list[float]:
    """The middles of the pauses of the voice, in seconds after the first frame."""
    mono = video.audio.waveform.mean(dim=0)
    window = max(1, round(_WINDOW * video.audio.sample_rate))
    loudness = mono[: len(mono) // window * window].reshape(-1, window).square().mean(dim=1).sqrt()
    if not len(loudness):
        return []
    speech = torch.quantile(loudness[torch.linspace(0, len(loudness) - 1, min(len(loudness), 100_000)).long()], 0.9)
    middles, began = [], None
    for k, silent in enumerate([*(loudness < _QUIET * speech).tolist(), False]):
        if silent:
            began = k if began is None else began
        elif began is not None:
            if (k - began) * _WINDOW >= _PAUSE:
                middles.append((k + began) / 2 * window / video.audio.sample_rate)
            began = None
    return middles
