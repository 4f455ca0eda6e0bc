"""The error types of the library: each message says what was expected, what came and what to do."""


class MemoError(Exception):
    """Base of every error the library raises on purpose."""


class InputError(MemoError, ValueError):
    """A value handed in by the user cannot be used; the message names the input."""


class CheckpointError(MemoError, ValueError):
    """A model file is missing, damaged, foreign or asks for an option that does not exist here."""


class DownloadError(MemoError, OSError):
    """A model file did not come, or is not the one expected; what had come of it is kept where it can go on from there."""


class StorageError(MemoError, OSError):
    """A file cannot be written because the disk is full or takes no file of that size; nothing of it is left."""


class MissingPackageError(MemoError, ImportError):
    """An optional package is needed for what was asked; the message says how to install it."""
