"""All randomness of a run: a generator is a pure function of the seed and a key.

Nothing here or elsewhere in the package reads or moves PyTorch's global generator, so a run can be stopped,
resumed or watched by callbacks without changing a bit of what it computes.
"""

import hashlib

import torch


def generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator addressed by ``(seed, *key)``; the same address always gives the same stream.

    Args:
        seed: The run's seed, any integer.
        key: What is drawn and where, for example ``("noise", position)``. Integers and strings are told apart
            (``1`` and ``"1"`` are different addresses).

    Returns:
        A fresh generator on the CPU, seeded with the first 8 bytes of BLAKE2b over the address. Draw on the
        CPU and move the result: it is then the same for any device and any number of workers.
    """
    address = repr((int(seed), *key)).encode()
    digest = hashlib.blake2b(address, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))
