"""Rows out of a folder of pictures; folders inside it are classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headrace_engines.data.options import Found, Pixels
from headrace_engines.errors import DataError, UnsupportedModelError
from headrace_engines.printable import printable
from headrace_engines.spec import TensorSpec

_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_MODES: Final = {1: "L", 3: "RGB"}
_MOST_BYTES: Final = 1 << 30
"""Of pictures held at once."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model takes for a picture: its size in pixels, and where the channels stand."""

    height: int
    width: int
    channels: int
    channels_first: bool
    has_channel_axis: bool

    def arranged(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return an array (height, width, channels) in the order that the model takes."""
        if not self.has_channel_axis:
            return pixels[..., 0]
        return np.moveaxis(pixels, -1, 0) if self.channels_first else pixels


def layout(tensor: TensorSpec) -> Layout:
    """Tell how an input takes pictures, by its dims; raises DataError if it takes none."""
    match tensor.dims:
        case (1 | 3 as channels, height, width) if height > 3 and width > 3:
            return Layout(height, width, channels, channels_first=True, has_channel_axis=True)
        case (height, width, 1 | 3 as channels) if height > 0 and width > 0:
            return Layout(height, width, channels, channels_first=False, has_channel_axis=True)
        case (height, width) if height > 0 and width > 0:
            return Layout(height, width, 1, channels_first=False, has_channel_axis=False)
    raise DataError(
        f"pictures do not fit input {tensor.name!r} of dims {list(tensor.dims)}: expected [channels, height, "
        "width] or [height, width, channels], with 1 or 3 channels and fixed sizes"
    )


def read(folder: Path, tensor: TensorSpec, pixels: Pixels, most_rows: int, seed: int) -> Found:
    """Read pictures as an input takes them; the labels are the numbers of their folders, in order of names.

    The shorter side is brought to the size that is wanted, and the middle is cut out. An input of
    UINT8 gets the pixels as they are, any other what `pixels` makes of them.
    """
    wanted = layout(tensor)
    for flag, values in (("--mean", pixels.mean), ("--std", pixels.std)):
        if len(values) not in (1, wanted.channels):
            raise DataError(f"{flag}: {len(values)} numbers for pictures of {wanted.channels} channels")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    paths = [
        path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES and path.is_file()
    ]
    if not paths:
        raise DataError(f"{folder}: there is no picture in it ({', '.join(_SUFFIXES)})")
    row_bytes = wanted.height * wanted.width * wanted.channels * tensor.dtype.itemsize
    most = min(most_rows, max(1, _MOST_BYTES // row_bytes))
    if len(paths) > most:
        chosen = np.random.default_rng(seed).choice(len(paths), most, replace=False)
        paths = [paths[at] for at in sorted(chosen)]
    labels = _labels(folder, paths, classes)
    array = np.stack([_numbers(path, wanted, tensor, pixels) for path in paths])
    return Found(str(folder), {tensor.name: array}, labels)


def _labels(folder: Path, paths: Sequence[Path], classes: Sequence[str]) -> NDArray[np.int64] | None:
    places = [path.relative_to(folder).parts for path in paths]
    if all(len(parts) == 1 for parts in places):
        return None
    for parts in places:
        if len(parts) == 1:
            raise DataError(
                f"{folder}: {printable(parts[0])!r} lies beside the folders of classes: its class is unknown"
            )
    return np.array([classes.index(parts[0]) for parts in places], np.int64)


def _numbers(path: Path, wanted: Layout, tensor: TensorSpec, pixels: Pixels) -> NDArray[Any]:
    raw = _pixels(path, wanted, pixels.resize)
    if tensor.dtype == np.uint8:
        return np.ascontiguousarray(wanted.arranged(raw))
    mean, std = (np.asarray(values, np.float32) for values in (pixels.mean, pixels.std))
    numbers = (raw.astype(np.float32) * np.float32(pixels.scale) - mean) / std
    return np.ascontiguousarray(wanted.arranged(numbers), tensor.dtype)


def _pixels(path: Path, wanted: Layout, resize: int) -> NDArray[np.uint8]:
    """Return a picture's pixels (height, width, channels), of the size that is wanted."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise UnsupportedModelError(
            f"{path}: reading pictures needs Pillow: in a clone of Headrace, pip install '.[data]'"
        ) from error
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert(_MODES[wanted.channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no picture that can be read: {error}") from error
    size = (wanted.width, wanted.height)
    if resize:
        scale = resize / min(picture.size)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        if picture.width < size[0] or picture.height < size[1]:
            raise DataError(f"{path}: a shorter side of {resize} pixels is less than the model's {size}")
        left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
        picture = picture.crop((left, top, left + size[0], top + size[1]))
    else:
        picture = ImageOps.fit(picture, size)
    return np.asarray(picture, np.uint8).reshape(wanted.height, wanted.width, wanted.channels)
