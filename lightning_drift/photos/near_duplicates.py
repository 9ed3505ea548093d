"""Which pictures of a set are the same, or nearly."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE, _KEPT = 32, 8
_BASIS = np.cos(np.pi * np.arange(_KEPT)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE))  # DCT-II
NEAR = 8
"""Greatest Hamming distance, of 63 bits, called nearly the same.

Measured on the bundled photographs: JPEG at quality 40, half the size, a quarter more light or contrast, or 1
% trimmed off each side stay within 6; eight different crops of one photograph are 26 or more apart.
"""


def pixel_digest(image: Image.Image) -> bytes:
    """A hash of the decoded pixels: equal for equal pictures, whatever their files."""
    return hashlib.blake2b(repr((image.mode, image.size)).encode() + image.tobytes(), digest_size=16).digest()


def perceptual_hash(image: Image.Image) -> NDArray[np.bool_]:
    """63 bits that survive resizing, recompression and brightness: the DCT hash known as pHash.

    The grey picture is averaged to 32x32; of its discrete cosine transform the 8x8 lowest frequencies without
    the mean are compared with their median (C. Zauner, "Implementation and benchmarking of perceptual image
    hash functions", 2010).
    """
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    lowest = (_BASIS @ grey @ _BASIS.T).ravel()[1:]
    bits: NDArray[np.bool_] = lowest > np.median(lowest)
    return bits


def alike(digests: list[bytes], hashes: list[NDArray[np.bool_]]) -> tuple[list[list[int]], list[list[int]]]:
    """Group the pictures that are alike.

    Args:
        digests: `pixel_digest` of each picture.
        hashes: `perceptual_hash` of each picture.

    Returns:
        Groups of exact duplicates, and groups linked by nearness (among the first of each exact group), both
        as lists of two or more indices in order.
    """
    exact: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        exact.setdefault(digest, []).append(index)
    group_of = {group[0]: [group[0]] for group in exact.values()}
    first = list(group_of)
    looks = np.stack([hashes[index] for index in first]) if first else np.empty((0, 63), bool)
    for place, one in enumerate(first):
        near = (looks[place + 1 :] != looks[place]).sum(1) <= NEAR
        for other in (first[place + 1 + int(step)] for step in np.flatnonzero(near)):
            if group_of[one] is not group_of[other]:
                group_of[one] += group_of[other]
                for index in group_of[other]:
                    group_of[index] = group_of[one]
    near_groups = {id(group): sorted(group) for group in group_of.values() if len(group) > 1}
    return [group for group in exact.values() if len(group) > 1], list(near_groups.values())
