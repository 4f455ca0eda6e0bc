"""What long work tells the program that runs it, and how that program stops it."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # downloading needs no torch, which takes seconds to import
    from torch import Tensor


@dataclass(frozen=True)
class Host:
    """The program in which something takes long: ComfyUI, a script, a test. By default it hears nothing and never stops.

    progress: called with what is done and what there is to do in all, in the unit that the function names; by the sampler with a third
        argument, see sampling.sample_video.
    clip_done: called by the sampler with the frames (f 3 H W) in [0, 1] of each clip that is done, and their rate per second.
    check_interrupt: called several times a second; raises to stop the work.
    say: takes a sentence for the user.
    """

    progress: Callable[..., None] = lambda done, total, *more: None
    check_interrupt: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda text: None
    clip_done: Callable[["Tensor", Fraction], None] = lambda frames, fps: None


SILENT = Host()
