"""Where the processes of one training wait for each other beside the gradients of a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from ..errors import MemoError

PATIENCE = timedelta(hours=3)
"""For which they wait for one that encodes a long video, makes samples or writes a checkpoint."""


class Processes:
    """All processes of ``accelerator``, each of which makes one of these and calls the same methods in the same order.

    They form a group of their own: the one that gradients take has to notice within minutes when a process is gone.
    """

    def __init__(self, accelerator):
        self.count = accelerator.num_processes
        self._group = torch.distributed.new_group(timeout=PATIENCE, backend="gloo") if self.count > 1 else None

    def gather(self, value: object) -> list:
        """What each process has for ``value``, once all have come here."""
        values = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Ends once all processes have come to its end. What fails in one of them fails in all, with MemoError where it was
        another one: none waits for what will not come."""
        error = None
        try:
            yield
        except Exception as own:
            error = own
        errors = self.gather(error and str(error))
        if error:
            raise error
        for number, other in enumerate(errors):
            if other is not None:
                raise MemoError(f"process {number} of {self.count} failed: {other}")
