"""The model store: what MEMO needs (catalogue), where it is (finding), how it comes (fetching), and the three together (obtain)."""
