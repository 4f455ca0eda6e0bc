"""Memory that was freed is the system's again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memo_modules.host_memory import _malloc_trim, has_room

ROOT = Path(__file__).resolve().parents[1]

# 200 MB in pieces, of which every hundredth stays: allocated by a thread, so that they lie in an arena of its own
CHILD = """
import resource, sys, threading
sys.path.insert(0, sys.argv[1])
from memo_modules.host_memory import return_freed_memory

kept = []

def work():
    pieces = [bytearray(20_000) for _ in range(10_000)]
    kept.extend(pieces[::100])

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

thread = threading.Thread(target=work)
thread.start()
thread.join()
held = resident()
return_freed_memory()
print(held, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or _malloc_trim() is None, reason="glibc alone keeps it")
def test_what_small_pieces_have_pinned_is_given_back():
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", CHILD, ROOT], env=variables, check=True, capture_output=True, text=True)
    held, left = map(int, run.stdout.split())
    assert held - left > 150e6


def test_ram_that_is_not_there_has_no_room():
    assert has_room(2**20) and not has_room(2**60)
