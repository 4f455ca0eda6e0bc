"""What the test command does first finds a mistake of each kind, and nothing in what is right."""

import shutil
import sys

import pytest

from tools import check, environment

RIGHT = "def one() -> int:\n    return 1\n"

WRONG = {
    "E711": "def one(x) -> bool:\n    return x == None\n",
    "F401": "import os\n",
    "I001": "import sys\nimport os\n\nprint(os, sys)\n",
    "B006": "def one(x=[]) -> list:\n    return x\n",
    "UP035": "from typing import Sequence\n\nOnes: Sequence[int] = (1,)\n",
    "SIM118": "def one(x: dict) -> bool:\n    return 1 in x.keys()\n",
    "RUF100": "ONE = 1  # noqa: E501\n",
    "would be reformatted": "ONE = ( 1 )\n",
    "reportArgumentType": 'def one(x: int) -> int:\n    return x\n\n\none("1")\n',
    "reportOptionalMemberAccess": 'import re\n\nprint(re.match("a", "b").group())\n',
}


@pytest.fixture
def tree(tmp_path):
    for folder in ("memo_modules", "nodes", "scripts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "memo_modules" / "right.py").write_text(RIGHT)
    shutil.copy(environment.ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_kind_of_mistake_is_found(tree, capsys):
    assert check.failed(sys.executable, tree) == []
    for name, text in WRONG.items():
        (tree / "memo_modules" / f"{name.replace(' ', '_').lower()}.py").write_text(text)
    assert check.failed(sys.executable, tree) == ["ruff format", "ruff check", "pyright"]
    printed = capsys.readouterr().out
    assert [name for name in WRONG if name not in printed] == []
