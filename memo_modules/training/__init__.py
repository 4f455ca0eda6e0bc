"""Training: the published objective on the networks of inference, and the loop around it. Paper: MEMO (arXiv 2412.04448), section 3.

``b`` counts the clips of a batch, which never see each other. Processes and devices are brought together by what the
loop is handed; scripts/train.py makes that.
"""
