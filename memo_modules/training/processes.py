"""Where the processes of one training wait for each other, other than for the gradients of a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from ..errors import MemoError

PATIENCE = timedelta(hours=3)
"""How long they wait for one that encodes a long video, makes samples or writes a checkpoint."""


class Processes:
    """All processes of ``accelerator``, each of which makes one of these and calls the same methods in the same order.

    They form a group of their own: the group for gradients must notice within minutes when a process is gone.
    """

    def __init__(self, accelerator):
        self.count = accelerator.num_processes
        self._group = torch.distributed.new_group(timeout=PATIENCE, backend="gloo") if self.count > 1 else None

    def gather(self, value: object) -> list:
        """The ``value`` of every process, once all have reached this call."""
        values = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context that ends once all processes have reached its end. A failure in one of them fails in all (as a MemoError in the others), so
        that none waits in vain."""
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
