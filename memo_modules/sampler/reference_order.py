"""How the published sampler and the training pair guidance branches, face contexts and reference pictures."""

REFERENCE_ORDERS = ("upstream", "aligned")
"""upstream: as in every published sample. aligned: as in training."""


def portrait_branches(branches: int, guided: int, frames: int, order: str) -> list[int]:
    """Which branch's features of the portrait the guided frames attend to: r = len / guided entries for each guided branch.

    The published sampler tiles the branches over the frames of all branches, so that frames alternate between them. With order
    "aligned" each branch sees its own.
    """
    if order == "aligned":
        return list(range(branches - guided, branches))
    rows = [[(branch * frames + j) % branches for j in range(branches)] for branch in range(branches - guided, branches)]
    return [index for row in rows for index in row]


def face_context(branches: int, branch: int, picture: int, pictures: int, order: str) -> int:
    """Which face context the reference net combines with a picture of a branch: 0 is no face (with guidance), the last is the face.

    The published sampler tiles the contexts over [all pictures of branch 0, all pictures of branch 1].
    """
    return branch if order == "aligned" else (branch * pictures + picture) % branches
