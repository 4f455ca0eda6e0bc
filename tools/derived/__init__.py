"""Files that are made from others: what `python -m tools.regenerate` writes."""
