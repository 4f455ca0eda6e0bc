"""Measures videos of the small world, whoever made them, and compares variants of the sampler."""
