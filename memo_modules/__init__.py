"""MEMO as a library: networks, conditioning and sampler. It imports no ComfyUI and nothing heavy until used.

Dimension letters used throughout: ``b`` batch (guidance halves, unconditional first), ``f`` frames of a clip,
``n`` past frames, ``c h w`` channels and picture, ``t`` tokens, ``d`` token channels.
"""

__version__ = "0.1.0"
