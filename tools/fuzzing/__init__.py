"""Damaged files, and processes that read them: what tools/fuzz.py is made of."""
