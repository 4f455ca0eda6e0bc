"""Makes a voice that changes its loudness within a recording equally loud throughout."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..clips import ceil_div
from ..types import Audio
from ..values import parts
from .io import listened

_FRAME = 0.03
"""Seconds over which loudness is measured first; the constants below are whole numbers of such frames."""

_GAP = 7
"""Up to twice as many frames between two syllables belong to the speech."""

_REACH = 50
"""Before and after a moment, what has a say in its gain: sentences keep their dynamics."""

_SIDE = 33
"""Before and after a moment, what is compared to find a step."""

_STEP = 15.0
"""Decibels from which a change is a step, across which nobody looks; smaller ones are followed slowly."""

_RANGE = 40.0
"""Decibels below the loudest moment at which there is still a voice; what is fainter is a pause and gets the gain of its neighbours."""

_SILENCE = 1e-12


def levelled(audio: Audio, check_interrupt: Callable[[], None] = lambda: None) -> Audio:
    """``audio`` as it is ``listened`` to, with a gain that slowly changes: the voice is as loud everywhere as where it is loudest.

    Pauses are not raised more than the words around them.
    """
    whole = listened(audio, audio.sample_rate, check_interrupt=check_interrupt)
    frame = max(1, round(_FRAME * whole.sample_rate))
    gains = _gains(_energies(whole.waveform[0], frame, check_interrupt))
    centres = (np.arange(len(gains)) + 0.5) * frame
    made, done = torch.empty_like(whole.waveform), 0
    for part in parts(whole.waveform, check_interrupt, dim=1):
        at = np.arange(done, done + part.shape[1])
        made[:, at[0] : at[-1] + 1] = part * torch.from_numpy(10 ** (np.interp(at, centres, gains) / 20)).float()
        done += part.shape[1]
    return Audio(made, whole.sample_rate)


def _energies(samples: Tensor, frame: int, check_interrupt: Callable[[], None]) -> np.ndarray:
    """The mean square of each ``frame`` samples; the last ones may be fewer."""
    energies = np.empty(ceil_div(len(samples), frame))
    for k, part in enumerate(samples.split(frame)):
        if k % 4096 == 0:
            check_interrupt()
        energies[k] = float(part.double().square().mean()) + _SILENCE
    return energies


def _gains(energies: np.ndarray) -> np.ndarray:
    """Decibels by which each frame becomes louder."""
    loudness = 10 * np.log10(energies)
    filled = _windows(_windows(loudness, _GAP).max(axis=-1), _GAP).min(axis=-1)
    speaks = filled > loudness.max() - _RANGE
    frames, borders = np.arange(len(energies)), _steps(energies, speaks)
    stretch = np.searchsorted(borders, frames, side="right") - 1
    level = _mean(energies, speaks, np.maximum(frames - _REACH, borders[stretch]), np.minimum(frames + _REACH + 1, borders[stretch + 1]))
    known = np.isfinite(level)
    level = np.interp(frames, frames[known], level[known])
    return level.max() - level


def _steps(energies: np.ndarray, speaks: np.ndarray) -> np.ndarray:
    """Frames with which another loudness begins, ascending, the first and the one after the last included."""
    frames, end = np.arange(len(energies)), len(energies)
    before = _mean(energies, speaks, np.maximum(frames - _SIDE, 0), frames)
    after = _mean(energies, speaks, frames, np.minimum(frames + _SIDE, end))
    change = np.nan_to_num(np.abs(after - before))
    found = [0, end]
    for frame in np.argsort(-change, kind="stable"):
        if change[frame] < _STEP:
            break
        if min(abs(frame - other) for other in found) >= _SIDE // 2:
            found.append(int(frame))
    return np.array(sorted(found))


def _mean(energies: np.ndarray, speaks: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Decibels of the frames start..stop-1 in which somebody speaks; NaN where nobody does."""
    energy, count = (np.concatenate([[0], np.cumsum(values)]) for values in (energies * speaks, speaks))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(np.maximum(energy[stop] - energy[start], _SILENCE) / (count[stop] - count[start]) * (count[stop] > count[start]))


def _windows(values: np.ndarray, reach: int) -> np.ndarray:
    """(n 2*reach+1): of each value those up to ``reach`` before and after it; at the ends the outermost stands in."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, mode="edge"), 2 * reach + 1)
