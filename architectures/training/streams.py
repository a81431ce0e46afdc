"""Random streams seeded by names and numbers, so that a run that was stopped goes on with the same streams."""

from __future__ import annotations

from hashlib import blake2b

import torch


def stream_seed(*key: object) -> int:
    """A seed below 2^63 for a key such as ("train", seed, step); CPU generators use its lower half."""
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class Streams:
    """One generator for each device, seeded anew for each key."""

    def __init__(self) -> None:
        self._generators: dict[torch.device, torch.Generator] = {}

    def __call__(self, device: torch.device, *key: object) -> torch.Generator:
        """The generator of this device at the start of this key's stream; the next call seeds it anew."""
        generator = self._generators.setdefault(device, torch.Generator(device))
        return generator.manual_seed(stream_seed(*key))
