"""Imported first by the programs of this folder, which run as files, from anywhere: makes `memo_modules` and `tools` importable."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
