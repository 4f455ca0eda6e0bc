"""Training: the published objective on the networks of inference, the loop around it, and the preparation of its data.
Paper: MEMO (arXiv 2412.04448), section 3.

``b`` counts the clips of a batch, which never see each other. Processes and devices are brought together by what the
loop is handed; scripts/train.py makes that.
"""
