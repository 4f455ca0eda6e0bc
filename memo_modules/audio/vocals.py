"""The voice out of a mix, with audio-separator's MDX separator on Kim_Vocal_2, driven on arrays."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError, MissingPackageError
from ..host import SILENT, Host
from ..types import Audio
from ..weights.checks import REPAIR
from ..weights.fingerprints import audio_digest, file_digest
from ..weights.onnx_sessions import OnnxModel, check_graph, check_made, input_shape, opening, quiet, running
from .io import LOUDEST, alone, mono, peak, resample, validate

logger = logging.getLogger(__name__)

SAMPLE_RATE = 44100

_COMPENSATE, _N_FFT, _HOP = 1.009, 7680, 1024
"""Kim_Vocal_2's own figures; its picture size stands in the file."""

_OVERLAP, _PEAK = 0.25, 0.9
"""audio-separator's defaults: how far chunks overlap, and the loudest sample the network is given."""


class VocalSeparator(OnnxModel):
    """Separates vocals with an MDX network in an ONNX file."""

    def __init__(self, path: Path, cuda: bool = False):
        super().__init__([path], cuda)

    def separate(self, audio: Audio, host: Host = SILENT) -> Audio:
        """The vocals in ``audio``, as long, as loud and at the same sample rate: stereo from stereo whose channels do not cancel
        each other, else mono.

        ``host`` gets the progress in chunks. Raises InputError for empty or non-finite audio.
        """
        validate(audio, check_interrupt=host.check_interrupt)
        as_it_is = audio.waveform.shape[0] == 2 and alone(audio, host.check_interrupt) is None
        source = audio if as_it_is else mono(audio, host.check_interrupt)
        mix = resample(source, SAMPLE_RATE, host.check_interrupt).waveform.float().expand(2, -1)
        loudest = peak(Audio(mix, SAMPLE_RATE), host.check_interrupt)
        gain = _PEAK / loudest if loudest > _PEAK else 1.0
        vocals = torch.from_numpy(self._demix((mix * gain).numpy(), host)) / gain
        if source.waveform.shape[0] == 1:
            vocals = vocals.mean(dim=0, keepdim=True)
        vocals = resample(Audio(vocals, SAMPLE_RATE), audio.sample_rate, host.check_interrupt).waveform
        if not peak(Audio(vocals, SAMPLE_RATE), host.check_interrupt) <= LOUDEST:
            raise CheckpointError(f"{self.files[0]} makes vocals that are NaN, infinite or beyond all measure. {REPAIR}")
        made_of = " ".join((audio_digest(audio, host.check_interrupt), *map(file_digest, self.files)))  # a GPU rounds otherwise from run to run
        return Audio(vocals[:, : audio.waveform.shape[1]].contiguous(), audio.sample_rate, made_of)

    def _demix(self, mix: np.ndarray, host: Host) -> np.ndarray:
        """Vocals (2 samples) of ``mix`` (2 samples), numpy float32 at 44.1 kHz."""

        def chunks(starts: range) -> Iterator[int]:
            for done, start in enumerate(starts, 1):
                host.check_interrupt()
                yield start
                host.progress(done, len(starts))

        package, separator = self.open()
        bar, package.tqdm = package.tqdm, chunks  # the package's own progress bar goes to stderr
        try:
            with quiet():  # it divides by zero in samples that it then cuts off
                return separator.demix(mix)
        finally:
            package.tqdm = bar

    def _open(self, providers: list[str]) -> tuple[ModuleType, Any]:
        """audio-separator's module, and the separator in it."""
        mdx_separator = _import_mdx_separator()
        [path] = self.files
        dim_f, dim_t = _picture_size(path)
        common = {
            "logger": logger,
            "log_level": logging.WARNING,
            "torch_device": torch.device("cpu"),
            "onnx_execution_provider": providers,
            "model_name": path.stem,
            "model_path": str(path),
            "model_data": {
                "compensate": _COMPENSATE,
                "mdx_dim_f_set": dim_f,
                "mdx_dim_t_set": dim_t.bit_length() - 1,
                "mdx_n_fft_scale_set": _N_FFT,
                "primary_stem": "Vocals",
            },
            "sample_rate": SAMPLE_RATE,
        }
        # With its segments as long as the network's picture it runs on onnxruntime, else on a conversion to torch.
        architecture = {"segment_size": dim_t, "overlap": _OVERLAP, "batch_size": 1, "hop_length": _HOP, "enable_denoise": False}
        with opening(path):
            separator = mdx_separator.MDXSeparator(common, architecture)
        run = separator.model_run

        def run_checked(picture: torch.Tensor) -> np.ndarray:
            with running(path):
                made = run(picture)
            check_made(made, tuple(picture.shape), path)
            return made

        separator.model_run = run_checked
        return mdx_separator, separator


def _picture_size(path: Path) -> tuple[int, int]:
    """Frequencies and time steps of the pictures (batch 4 dim_f dim_t) that the network in ``path`` takes."""
    shape = input_shape(path)
    # The package takes the time steps as a power of two, and cuts half a transform off each end of a chunk.
    fits = len(shape) == 4 and shape[1] == 4 and 0 < shape[2] <= _N_FFT // 2 + 1
    if not fits or shape[3].bit_count() != 1 or _HOP * (shape[3] - 1) <= _N_FFT:
        raise CheckpointError(
            f"{path} is not an MDX vocal separator: its input has shape {shape}, expected [batch, 4, frequencies, 2^n]. Use Kim_Vocal_2.onnx."
        )
    _, _, dim_f, dim_t = shape
    check_graph(path, "an MDX vocal separator", {"input": (None, 4, dim_f, dim_t)}, [(None, 4, dim_f, dim_t)])  # the package knows it by this name
    return dim_f, dim_t


def _import_mdx_separator() -> ModuleType:
    try:
        from audio_separator.separator.architectures import mdx_separator
    except ImportError as error:
        raise MissingPackageError(
            f"Separating vocals needs audio-separator and onnxruntime ({error}): see the README for the command that installs both."
        ) from error
    return mdx_separator
