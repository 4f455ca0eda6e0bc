"""The measurements of tools/bench.py."""
