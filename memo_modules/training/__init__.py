"""Training: the published objective on the networks of inference. Paper: MEMO (arXiv 2412.04448), section 3.

Loading, the loop over processes and what is written to disk are not here: every function takes what it needs and leaves
the choice of devices to its caller. ``b`` counts the clips of a batch, which never see each other.
"""
