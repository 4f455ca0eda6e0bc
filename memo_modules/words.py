"""Text of users, files and other programs in sentences of ours: short, on one line, and such that any log can hold it."""

import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_LOOK_ALIKES = str.maketrans({"<": "‹", ">": "›", "&": "＆"})

MOST_SHOWN = 80
"""Characters of a value that a message shows."""

MOST_SAID = 4000
"""Characters of a message: a log and a page can show them, and nobody reads more."""


def quoted(value: object, most: int = MOST_SHOWN) -> str:
    """``value`` as Python writes it, cut to ``most`` characters; what no encoding can write is escaped."""
    if isinstance(value, str | bytes) and len(value) > 4 * most:
        value = value[: 4 * most]  # its whole form would be as long again
    try:
        text = repr(value)
    except Exception:  # of a foreign object, or deeper than Python can follow
        text = f"<{type(value).__name__}>"
    return shortened(printable(text), most)


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """``text``, or the beginning of it and "..." where it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def printable(text: str) -> str:
    """``text`` with what no encoding can write, or a terminal would act on, escaped: half an emoji, control characters."""
    return _UNPRINTABLE.sub(lambda char: repr(char[0])[1:-1], text)


def harmless(text: str) -> str:
    """``text`` for a page that takes it for HTML, and for one that does not: signs that mean something in HTML are replaced by others
    that look like them."""
    return printable(text).translate(_LOOK_ALIKES)


def first_line(error: BaseException, most: int = 300) -> str:
    """What an error says, on one line; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return shortened(printable(lines[0]), most) if lines else type(error).__name__


def file_size(size: float) -> str:
    """Bytes of a disk or a download, in words: in powers of ten, as disks and the hub count them."""
    factor, unit = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / factor:.1f} {unit}"


def memory_size(size: float) -> str:
    """Bytes of memory, in words: in powers of two, as systems and GPUs count it."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def hours(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
