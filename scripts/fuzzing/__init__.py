"""Damaged files, and processes that read them: what scripts/fuzz.py is made of."""
