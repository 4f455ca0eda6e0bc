"""MEMO's networks. Attribute names are the keys of the published checkpoints."""
