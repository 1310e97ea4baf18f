"""Measured point-spread functions: read from a file, checked, and brought to the network's pixels."""

import functools
import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from blurtrain.errors import ConfigError

MOST_SIDE = 1025  # px, before and after scaling: 2 ** 10 either way from the centre, more than any blur here has
MOST_BYTES = 2**26  # a float128 .npy of that size and room to spare: more is refused before it is read
FORMATS = ("PNG", "TIFF", "BMP", "PPM", "JPEG", "GIF", "WEBP")
_NPY = b"\x93NUMPY"  # how every .npy file begins

Weights = Float64[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class Measured:
    """A point-spread function as its file has it.

    Args:
        sha256: Of the file's bytes.
        weights: Odd sides, the origin in the middle; not negative, sum 1.
    """

    sha256: str
    weights: Weights


@functools.cache  # once a process, so that the stored hash is that of the kernel in use whatever becomes of the file
def read(path: str) -> Measured:
    """Read a point-spread function from a .npy file or a grey image.

    The origin of an even side is at n // 2, where numpy's fftshift puts it.

    Raises:
        ConfigError: If the file cannot be read, or what it holds is no point-spread function.
    """
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} must be at most {MOST_SIDE} px a side, but has more than {MOST_BYTES:,} bytes")
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{path} cannot be read ({reason}): give a .npy file or an image as psf") from error
    values = _from_npy(path, data) if data.startswith(_NPY) else _from_image(path, data)
    return Measured(hashlib.sha256(data).hexdigest(), _checked(path, values))


def _from_npy(path: str, data: bytes) -> np.ndarray:
    try:
        values: np.ndarray = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # damaged headers make numpy raise ValueError, SyntaxError, MemoryError and others
        raise ConfigError(f"{path} is no .npy file of plain numbers ({error})") from error
    if values.dtype.kind not in "biuf":
        raise ConfigError(f"{path} must hold real numbers, got {values.dtype}")
    return values


def _from_image(path: str, data: bytes) -> np.ndarray:
    """Grey values as they are stored: no gamma is undone."""
    from PIL import Image  # the clean path needs no decoder

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_side(path, (image.height, image.width))  # before anything is decoded
            frames = getattr(image, "n_frames", 1)
            image.load()
            bands = np.asarray(image if _is_grey(image.mode) else image.convert("RGBA"))
    except ConfigError:
        raise
    except Exception as error:  # damaged bytes make Pillow raise TypeError, struct.error and many others
        raise ConfigError(f"{path} is neither a .npy file nor an image that can be decoded ({error})") from error
    if frames > 1:
        raise ConfigError(f"{path} must be one picture, got {frames} frames")
    if bands.ndim == 2:
        return bands
    if (bands[..., 3] != 255).any():
        raise ConfigError(f"{path} is a transparent image: give one channel")
    if (bands[..., 0] != bands[..., 1]).any() or (bands[..., 0] != bands[..., 2]).any():
        raise ConfigError(f"{path} is a colour image whose channels differ: give one channel")
    return np.asarray(bands[..., 0])


def _is_grey(mode: str) -> bool:
    """Whether an image has one channel of its own numbers; a palette's are names of colours."""
    return mode in ("1", "L", "I", "F") or mode.startswith("I;16")


def _check_side(path: str, shape: tuple[int, ...], remark: str = "") -> None:
    if max(shape) > MOST_SIDE:
        size = " x ".join(map(str, shape))
        raise ConfigError(f"{path} must be at most {MOST_SIDE} px a side, got {size}{remark}")


def _checked(path: str, values: np.ndarray) -> Weights:
    """Odd sides and sum 1, or a refusal in words."""
    if values.ndim != 2 or 0 in values.shape:
        raise ConfigError(f"{path} must be two-dimensional, got shape {values.shape}")
    _check_side(path, values.shape)
    with np.errstate(over="ignore"):  # a long double may exceed float64: it is refused as infinite
        weights: Weights = values.astype(np.float64)
    if not np.isfinite(weights).all():
        raise ConfigError(f"{path} must hold finite values alone, got NaN or infinity")
    if weights.min() < 0:
        raise ConfigError(f"{path} must not hold negative values, got {weights.min():g}: subtract the background first")
    if weights.max() == 0:
        raise ConfigError(f"{path} must hold a value above 0, got zeros alone")
    weights = np.pad(weights, [(0, 1 - n % 2) for n in weights.shape])
    weights /= weights.max()  # the sum of huge values would overflow
    weights /= weights.sum()
    return weights


def scaled(path: str, scale: float) -> Weights:
    """The point-spread function of a file with `scale` network pixels for each pixel of the file.

    Each pixel of the file is a square of even density, shared out among the network's pixels by area: exact for such a
    function, keeps the sum and the symmetries, and changes nothing at scale 1.

    Raises:
        ConfigError: If the file cannot be read, holds no point-spread function, or would be too large.
    """
    weights = read(path).weights
    rows, columns = weights.shape
    sides = (2 * _reach(rows, scale) + 1, 2 * _reach(columns, scale) + 1)
    _check_side(path, sides, f" at strength {scale:g}")
    resampled: Weights = _overlap(rows, scale) @ weights @ _overlap(columns, scale).T
    return resampled


def _reach(n: int, scale: float) -> int:
    """Pixels on each side of the centre that n squares of that size touch."""
    return max(math.ceil(n * scale / 2 - 0.5), 0)


def _overlap(n: int, scale: float) -> Float64[np.ndarray, "pixels {n}"]:
    """The share of each of n squares of side `scale` that lies in each pixel; both are centred."""
    reach = _reach(n, scale)
    pixels = np.arange(-reach, reach + 1)[:, None]
    squares = np.arange(-(n // 2), n // 2 + 1)
    low = np.maximum(pixels - 0.5, (squares - 0.5) * scale)
    high = np.minimum(pixels + 0.5, (squares + 0.5) * scale)
    shares: np.ndarray = (high - low).clip(0) / scale
    return shares
