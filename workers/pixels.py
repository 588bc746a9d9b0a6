"""Images as models see them: of one size, from black 0 to white 1."""

import numpy as np
from PIL import Image

from workers.data_settings import ImageSize

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue (ITU-R BT.601-7, 2.5.1)


def as_asked(pixels: np.ndarray, image: ImageSize) -> np.ndarray:
    """The image `(height, width)` or `(height, width, 3)` in the size and channels of the study, float32.

    Its proportions are not kept. Where it becomes smaller, a pixel is a mean of those it covers (Pillow's
    bilinear filter).
    """
    pixels = pixels.astype(np.float32)
    if pixels.ndim == 3:
        channels = [pixels @ LUMINANCE] if image.channels == 1 else list(np.moveaxis(pixels, -1, 0))
    else:
        channels = [pixels] * image.channels
    return np.stack([_resized(channel, image) for channel in channels], axis=-1)


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Whole numbers of 8 or 16 bits as 0 to 1; other numbers as they are."""
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    return pixels.astype(np.float32)


def _resized(channel: np.ndarray, image: ImageSize) -> np.ndarray:
    if channel.shape == (image.height, image.width):
        return channel
    found = Image.fromarray(np.ascontiguousarray(channel, np.float32))
    return np.asarray(found.resize((image.width, image.height), Image.Resampling.BILINEAR))
