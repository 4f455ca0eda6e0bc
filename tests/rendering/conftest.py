"""What the tests of rendering share."""

from pathlib import Path

import pytest

from tests.helpers.render_jobs import write_inputs


@pytest.fixture
def inputs(tmp_path) -> Path:
    return write_inputs(tmp_path / "in")
