"""Training computes what the reference implementation computes, from single draws to the step of the optimizer.

Walks the JSON files of tests/golden_training, or of MEMO_parity_training.GOLDEN_TRAINING_DIR, and dispatches on `kind`.
"""

import json

import pytest

from tests.helpers import parity_training
from tests.helpers.parity_case import Case

pytestmark = pytest.mark.usefixtures("one_thread")


CHECKS = {
    "train_loss": parity_training.check_train_loss,
    "train_step": parity_training.check_train_step,
    "timesteps": parity_training.check_timesteps,
    "dataset_indices": parity_training.check_dataset_indices,
    "dataset_pixels": parity_training.check_dataset_pixels,
}


def cases() -> list:
    kinds = {path: json.loads(path.read_text(encoding="utf-8")).get("kind") for path in sorted(parity_training.GOLDEN.glob("*.json"))}
    return [pytest.param(kind, Case(path), id=path.stem) for path, kind in kinds.items() if kind]


@pytest.mark.parametrize("kind, case", cases())
def test_training_parity(kind: str, case: Case):
    assert kind in CHECKS, f"{case.path.name}: unknown kind {kind!r}"
    CHECKS[kind](case)


def test_there_are_cases_of_every_kind():
    assert {case.values[0] for case in cases()} == set(CHECKS), f"not every kind is in {parity_training.GOLDEN}"


@pytest.mark.parametrize("kind, case", [case for case in cases() if "all_trainable" in case.id])
def test_training_parity_holds_under_checkpointing(kind: str, case: Case):
    parity_training.check_train_loss(case, checkpointing=True)
