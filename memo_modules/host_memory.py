"""Memory of the process itself, outside torch."""

import ctypes
from functools import cache


def return_freed_memory() -> None:
    """Give memory that nothing holds any more back to the system.

    glibc keeps what was freed, for each thread apart, wherever something small after it is still in use: in a thousand
    clips that comes to a hundred megabytes. Other systems' allocators have no such call, and nothing happens.
    """
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (TypeError, OSError, AttributeError):  # Windows has no such handle, macOS and musl no such function
        return None


def has_room(size: int) -> bool:
    """Whether ``size`` bytes of RAM are free; where nothing can tell, they are taken to be."""
    try:
        import psutil  # ComfyUI has it, and so has accelerate; nothing else here needs it
    except ImportError:
        return True
    return size <= psutil.virtual_memory().available
