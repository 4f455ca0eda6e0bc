"""The voice out of a mix, with audio-separator's MDX separator on Kim_Vocal_2, driven on arrays."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..checkpoints import REPAIR, file_fault, raise_fault
from ..errors import CheckpointError, MissingPackageError
from ..fingerprints import audio_digest, file_digest
from ..onnx_sessions import OnnxModel, quiet
from ..types import Audio
from .io import mono, resample, validate

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

    def separate(
        self,
        audio: Audio,
        progress: Callable[[int, int], None] = lambda done, total: None,
        check_interrupt: Callable[[], None] = lambda: None,
    ) -> Audio:
        """The vocals in ``audio``, as long, as loud and at the same sample rate: stereo from stereo, else mono.

        ``progress`` gets chunks done and in all. Raises InputError for empty or non-finite audio.
        """
        validate(audio)
        source = audio if audio.waveform.shape[0] == 2 else mono(audio)
        mix = resample(source, SAMPLE_RATE).waveform.float().expand(2, -1)
        peak = mix.abs().max().item()
        gain = _PEAK / peak if peak > _PEAK else 1.0
        vocals = torch.from_numpy(self._demix((mix * gain).numpy(), progress, check_interrupt)) / gain
        if source.waveform.shape[0] == 1:
            vocals = vocals.mean(dim=0, keepdim=True)
        vocals = resample(Audio(vocals, SAMPLE_RATE), audio.sample_rate).waveform
        made_of = " ".join((audio_digest(audio), *map(file_digest, self.files)))  # a card rounds otherwise from run to run
        return Audio(vocals[:, : audio.waveform.shape[1]].contiguous(), audio.sample_rate, made_of)

    def _demix(self, mix, progress, check_interrupt):
        """Vocals (2 samples) of ``mix`` (2 samples), numpy float32 at 44.1 kHz."""

        def chunks(starts: range) -> Iterator[int]:
            for done, start in enumerate(starts, 1):
                check_interrupt()
                yield start
                progress(done, len(starts))

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
        return mdx_separator, mdx_separator.MDXSeparator(common, architecture)


def _picture_size(path: Path) -> tuple[int, int]:
    """Frequencies and time steps of the pictures (batch 4 dim_f dim_t) that the network in ``path`` takes."""
    import onnx
    from google.protobuf.message import DecodeError

    raise_fault(file_fault(path))
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise CheckpointError(f"{path} cannot be read as ONNX ({error}). {REPAIR}") from error
    shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] if graph.input else []
    # The package takes the time steps as a power of two, and cuts half a transform off each end of a chunk.
    fits = len(shape) == 4 and shape[1] == 4 and 0 < shape[2] <= _N_FFT // 2 + 1
    if not fits or shape[3].bit_count() != 1 or _HOP * (shape[3] - 1) <= _N_FFT:
        raise CheckpointError(
            f"{path} is not an MDX vocal separator: its input has shape {shape}, expected [batch, 4, frequencies, 2^n]. Use Kim_Vocal_2.onnx."
        )
    return shape[2], shape[3]


def _import_mdx_separator() -> ModuleType:
    try:
        from audio_separator.separator.architectures import mdx_separator
    except ImportError as error:
        raise MissingPackageError(
            f"Separating vocals needs audio-separator and onnxruntime ({error}): see the README for the command that installs both."
        ) from error
    return mdx_separator
