"""Decode image files, once and for all in one way, and bring them to the network's size."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from blurtrain.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 89_478_485  # Pillow's own line for a decompression bomb: 256 MiB of RGB
REDUCED = "blurtrain scale"  # in the info of an image that was decoded to a part of its size
KINDS = ("grey", "16-bit", "CMYK", "palette", "alpha", "EXIF-turned", "several frames")  # worth a look among others
DECODER_VERSION = 2  # raise it when the same file would decode to other pixels


def decode(data: bytes, scale: int = 1) -> Image.Image:
    """An image file's first frame, turned upright by its EXIF tag, in RGB.

    Alpha is dropped as torchvision's loader does; 16-bit grey is scaled to 8 bit rather than clipped.

    Args:
        data: The file's bytes.
        scale: 2, 4 or 8 decodes a JPEG to that part of its size, which takes less time; noted in the image's info.

    Raises:
        DataError: If the bytes are no image of a known format, are cut short, are a decompression bomb, or hold numbers
            of which nobody knows what is white.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
            image.load()
            upright = _to_rgb(ImageOps.exif_transpose(image))
            upright.info[REDUCED] = scale
            return upright
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"is no image in a known format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # damaged bytes make Pillow raise TypeError, struct.error and many others
        raise DataError(f"cannot be decoded ({error})") from error


def traits(image: Image.Image) -> tuple[str, tuple[str, ...]]:
    """Format of an image that was opened and not decoded yet, and which of `KINDS` it is.

    Of a PNG only an EXIF tag before the pixels counts: Pillow would decode them to look behind.
    """
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    found = {
        "grey": image.mode in ("1", "L", "LA") or image.mode.startswith("I"),
        "16-bit": image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())),
        "CMYK": image.mode == "CMYK",
        "palette": image.mode in ("P", "PA"),
        "alpha": image.has_transparency_data,
        "EXIF-turned": exif.get(ExifTags.Base.Orientation, 1) in range(2, 9),
        "several frames": getattr(image, "is_animated", False),
    }
    return str(image.format), tuple(kind for kind in KINDS if found[kind])


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("has floating-point pixels, whose white is unknown: save it with 8 or 16 bit")
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.float64) / 257  # 65535 / 255
        if grey.min() < 0 or grey.max() > 255:
            raise DataError("has pixels outside 16 bit, whose white is unknown: save it with 8 or 16 bit")
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class Geometry:
    """How an image becomes the square that the network sees: the weights' own resize and crop.

    Args:
        resize: Shorter side in px, bilinear or as named, always antialiased.
        crop: Side of the central square in px.
        interpolation: A name of `PIL.Image.Resampling`.
    """

    resize: int
    crop: int
    interpolation: str = "BILINEAR"

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop.

        Raises:
            DataError: As `apply`.
        """
        if min(width, height) == self.resize:
            return width, height
        shorter, longer = self.resize, int(self.resize * max(width, height) / min(width, height))
        if shorter * longer > MAX_PIXELS:
            raise DataError(f"is {width} x {height} px, too elongated to be resized to {self.resize} px")
        return (shorter, longer) if width <= height else (longer, shorter)

    def apply(self, image: Image.Image) -> UInt8[np.ndarray, "3 crop crop"]:
        """Resize and crop as torchvision's presets do on PIL images.

        Raises:
            DataError: If the image is so elongated that resizing its shorter side would not fit in memory.
        """
        if min(image.size) != self.resize:
            image = image.resize(self.resized(*image.size), Image.Resampling[self.interpolation])
        square = _centre_crop(np.asarray(image), self.crop)
        return np.ascontiguousarray(square.transpose(2, 0, 1))


def _centre_crop(pixels: UInt8[np.ndarray, "height width 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    height, width = pixels.shape[:2]
    if height < side or width < side:  # black margins, as torchvision's CenterCrop
        before = [max(side - n, 0) // 2 for n in (height, width)]
        after = [(max(side - n, 0) + 1) // 2 for n in (height, width)]
        pixels = np.pad(pixels, [(before[0], after[0]), (before[1], after[1]), (0, 0)])
        height, width = pixels.shape[:2]
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pixels[top : top + side, left : left + side]
