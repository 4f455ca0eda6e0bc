"""What tests of the objective compute with, where they do not say otherwise: a golden case, and its nets."""

import pytest

from memo_modules.sampler.sampling import MemoNets
from tests.helpers.parity_case import Case
from tests.helpers.parity_training import GOLDEN, load_nets


@pytest.fixture(scope="module")
def case() -> Case:
    (path,) = GOLDEN.glob("29_label_drop_*.json")
    return Case(path)


@pytest.fixture(scope="module")
def nets(case) -> MemoNets:
    return load_nets(case)
