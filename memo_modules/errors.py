"""The error types of the library: each message says what was expected, what came and what to do."""

from .words import MOST_SAID, printable, shortened


class MemoError(Exception):
    """Base of every error the library raises on purpose.

    Whatever text of a user or a file has got into its message, any log can write it: ComfyUI's worker ends with an error
    that its log cannot hold.
    """

    def __init__(self, *args):
        super().__init__(*(shortened(printable(arg), MOST_SAID) if isinstance(arg, str) else arg for arg in args))


class InputError(MemoError, ValueError):
    """A value handed in by the user cannot be used; the message names the input."""


class CheckpointError(MemoError, ValueError):
    """A model file is missing, damaged, foreign or asks for an option that does not exist here."""


class DownloadError(MemoError, OSError):
    """A model file did not come, or is not the one expected; what had come of it is kept so that it can continue from there."""


class StorageError(MemoError, OSError):
    """A file cannot be written: the disk is full, takes no file of that size or name, or fails. Nothing incomplete is left."""


class MissingPackageError(MemoError, ImportError):
    """An optional package is needed for what was asked; the message says how to install it."""
