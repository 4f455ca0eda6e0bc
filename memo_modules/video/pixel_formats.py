"""RGB pictures as the planes that video encoders take.

ITU-R BT.709 in the limited range, in integers: ffmpeg's own conversion takes BT.601 unless told, and rounds by the
processor it runs on.
"""

import numpy as np

_BITS = 16
_RED, _BLUE = 0.2126, 0.0722
"""Shares of red and blue in BT.709's luma."""


def _weights(red: float, green: float, blue: float, scale: float) -> np.ndarray:
    """Fixed-point weights whose rounding never tints a grey: they add up as the exact ones do."""
    total = round((red + green + blue) * scale * 2**_BITS)
    red, blue = round(red * scale * 2**_BITS), round(blue * scale * 2**_BITS)
    return np.array([red, total - red - blue, blue], dtype=np.int32)


_GREEN = 1 - _RED - _BLUE
_Y = _weights(_RED, _GREEN, _BLUE, 219 / 255)
_CB = _weights(-_RED, -_GREEN, 1 - _BLUE, 112 / 255 / (1 - _BLUE))
_CR = _weights(1 - _RED, -_GREEN, -_BLUE, 112 / 255 / (1 - _RED))


def planes(picture: np.ndarray, pixel_format: str) -> list[np.ndarray]:
    """The planes, uint8 (rows bytes), of an RGB picture uint8 (h w 3) in "bgr0", "yuv444p" or "yuv420p" (h and w even).

    yuv420p: chroma lies between two rows and on the even columns, as H.264 and everything that reads it take for granted.
    """
    if pixel_format == "bgr0":
        packed = np.zeros((*picture.shape[:2], 4), dtype=np.uint8)
        packed[..., :3] = picture[..., ::-1]
        return [packed.reshape(len(packed), -1)]
    rgb = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.int32)
    colour, extra_bits = (_halved(rgb), 3) if pixel_format == "yuv420p" else (rgb, 0)
    return [_plane(rgb, _Y, 16, 0), _plane(colour, _CB, 128, extra_bits), _plane(colour, _CR, 128, extra_bits)]


def _plane(rgb: np.ndarray, weights: np.ndarray, offset: int, extra_bits: int) -> np.ndarray:
    bits = _BITS + extra_bits
    weighted = rgb[0] * weights[0] + rgb[1] * weights[1] + rgb[2] * weights[2]
    return (((weighted + (1 << bits - 1)) >> bits) + offset).astype(np.uint8)


def _halved(rgb: np.ndarray) -> np.ndarray:
    """(3 h w) to (3 h/2 w/2), times eight: two rows added, columns weighted 1 2 1 around the even ones."""
    rows = rgb[:, 0::2] + rgb[:, 1::2]
    left = np.concatenate([rows[:, :, :1], rows[:, :, 1:-1:2]], axis=2)
    return left + 2 * rows[:, :, 0::2] + rows[:, :, 1::2]
