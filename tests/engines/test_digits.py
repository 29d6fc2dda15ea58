from __future__ import annotations

import numpy as np

from headrace_engines import digits
from headrace_engines.rows import data_hash


def test_every_scan_is_in_one_split() -> None:
    splits = digits.splits()
    parts = (splits.train, splits.calibration, splits.held_out)
    assert [len(part.images) for part in parts] == [878, 200, 719]
    assert all(len(part.images) == len(part.labels) for part in parts)
    # Pixels tell scans apart: the data holds no scan twice.
    assert len({image.tobytes() for part in parts for image in part.images}) == 1797


def test_every_digit_has_its_share_of_the_held_out_scans() -> None:
    splits = digits.splits()
    held = np.bincount(splits.held_out.labels, minlength=10)
    total = sum(
        np.bincount(part.labels, minlength=10) for part in (splits.train, splits.calibration, splits.held_out)
    )
    assert np.allclose(held / total, 0.4, atol=0.005)
    assert np.bincount(splits.calibration.labels).tolist() == [20] * 10


def test_held_out_scans_are_raw_pixels_and_always_the_same() -> None:
    one, other = digits.held_out(), digits.held_out()
    assert one.images.shape == (719, 64)
    assert (one.images.dtype, one.labels.dtype) == (np.float32, np.int64)
    assert (one.images.min(), one.images.max()) == (0.0, 16.0)
    assert data_hash(one.images, one.labels) == data_hash(other.images, other.labels)


def test_neighbours_in_the_stream_show_different_digits() -> None:
    labels = digits.held_out().labels
    assert np.mean(labels[1:] == labels[:-1]) < 0.2


def test_a_data_hash_sees_contents_shape_and_dtype() -> None:
    array = np.arange(6, dtype=np.int32)
    others = (array + 1, array.reshape(2, 3), array.astype(np.int64), array.view(np.uint32))
    hashes = {data_hash(array), *(data_hash(other) for other in others)}
    assert len(hashes) == 5
    assert data_hash(array) == data_hash(array.copy())
