"""The emulator's instructions, against Python's integers and torch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from bench.emulator import arithmetic

WORDS = [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x12345678, 0xDEADBEEF]


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("sign", ["i", "u"])
def test_upper_half_of_products(bits: int, sign: str) -> None:
    draw = random.Random(0)
    limits = np.iinfo(f"{sign}{bits // 8}")
    edges = [limits.min, limits.max, 0, 1, limits.max // 3]
    x = edges * 5 + [draw.randint(limits.min, limits.max) for _ in range(50)]
    y = [e for e in edges for _ in range(5)] + [
        draw.randint(limits.min, limits.max) for _ in range(50)
    ]
    kind = np.dtype(f"{sign}{bits // 8}")
    with np.errstate(over="ignore"):
        found = arithmetic.mulhi(np.array(x, kind), np.array(y, kind))
    assert found.tolist() == [p * q >> bits for p, q in zip(x, y, strict=True)]


def test_bits() -> None:
    a, b = (
        np.array(w, np.uint32) for w in zip(*[(x, y) for x in WORDS for y in WORDS], strict=True)
    )
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    assert arithmetic.clz(a).tolist() == [32 - x.bit_length() for x, _ in pairs]
    assert arithmetic.brev(a).tolist() == [int(f"{x:032b}"[::-1], 2) for x, _ in pairs]
    assert arithmetic.popc(a).tolist() == [x.bit_count() for x, _ in pairs]
    assert arithmetic.lop3(a, b, np.uint32(0xF0F0F0F0), 0x96).tolist() == [
        x ^ y ^ 0xF0F0F0F0 for x, y in pairs
    ]
    for n in (0, 5, 31):
        both = [y << 32 | x for x, y in pairs]
        left, right = (arithmetic.shf(a, b, np.uint32(n), side, True) for side in (True, False))
        assert left.tolist() == [(w << n) % 2**64 >> 32 for w in both]
        assert right.tolist() == [(w >> n) % 2**32 for w in both]
        assert arithmetic.shl(a, np.uint32(n), 32).tolist() == [
            x << n & 0xFFFFFFFF for x, _ in pairs
        ]
    assert not arithmetic.shl(a, np.uint32(32), 32).any()
    assert arithmetic.bfe(a, np.uint32(4), np.uint32(8)).tolist() == [
        x >> 4 & 255 for x, _ in pairs
    ]
    signed = arithmetic.bfe(a.view(np.int32), np.uint32(4), np.uint32(8))
    assert signed.tolist() == [(x >> 4 & 255 ^ 128) - 128 for x, _ in pairs]
    assert arithmetic.bfi(a, b, np.uint32(4), np.uint32(8)).tolist() == [
        y & ~0xFF0 | (x & 255) << 4 for x, y in pairs
    ]
    assert arithmetic.prmt(a, b, np.uint32(0x5410)).tolist() == [
        (y & 0xFFFF) << 16 | x & 0xFFFF for x, y in pairs
    ]


@pytest.mark.parametrize("kind", ["idx", "up", "down", "bfly"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(kind: str, width: int) -> None:
    lanes = np.arange(64)
    by = np.where(lanes < 32, 3, 5)
    clamp = (32 - width) << 8 | (0 if kind == "up" else 31)
    found, inside = arithmetic.shfl(
        lanes.astype(np.uint32) + 100, by.astype(np.uint32), np.uint32(clamp), kind, 64
    )
    for lane in range(64):
        first = lane - lane % width
        source = {
            "idx": first + by[lane] % width, "up": lane - by[lane],
            "down": lane + by[lane], "bfly": lane ^ by[lane],
        }[kind]  # fmt: skip
        good = first <= source < first + width
        assert bool(inside[lane]) == good
        assert found[lane] == 100 + (source if good else lane)


def test_products_of_matrices() -> None:
    a, b, c = (torch.randn(2, *size, dtype=torch.float64) for size in ((8, 4), (4, 8), (8, 8)))
    pairs = c.reshape(2, 32, 2).unbind(-1)
    found = arithmetic.mma_f64(
        a.reshape(-1).numpy(), b.mT.reshape(-1).numpy(), [p.reshape(-1).numpy() for p in pairs], 64
    )
    wanted = (a @ b + c).reshape(64, 2).T
    torch.testing.assert_close(torch.from_numpy(found), wanted)


def test_half_precision_is_rounded_as_by_torch() -> None:
    x = torch.cat([torch.randn(1000), torch.tensor([0.0, -0.0, 1e-40, torch.inf, 65504.0, 7e4])])
    bits = arithmetic.to_bf16(x.numpy())
    assert (torch.from_numpy(bits).view(torch.bfloat16) == x.bfloat16()).all()
    assert (torch.from_numpy(arithmetic.from_bf16(bits)) == x.bfloat16().float()).all()
    with np.errstate(over="ignore"):
        assert (
            torch.from_numpy(arithmetic.to_f16(x.numpy())).view(torch.float16) == x.half()
        ).all()


def test_fused_products_are_rounded_once() -> None:
    x = np.float32(1 + 2**-12)
    assert arithmetic.fma(x, x, np.float32(-1)) == np.float32(2**-11 + 2**-24)
    assert arithmetic.to_int(np.float32([3e9, -3e9, np.nan, -2]), np.int32).tolist() == [
        2**31 - 1, -(2**31), 0, -2,
    ]  # fmt: skip
