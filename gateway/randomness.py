"""Randomness as a pure function of (seed, position): the same everywhere, with no state to move.

Knows Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), the generator of Random123, cuRAND and numpy; knows nothing of tokens.
"""

from __future__ import annotations

MAX_SEED = 2**64 - 1

_WORD = 0xFFFF_FFFF
_MULTIPLIER_0 = 0xD251_1F53
_MULTIPLIER_1 = 0xCD9E_8D57
_KEY_STEP_0 = 0x9E37_79B9
_KEY_STEP_1 = 0xBB67_AE85
_ROUNDS = 10
_KEY_STEPS = tuple((r * _KEY_STEP_0 & _WORD, r * _KEY_STEP_1 & _WORD) for r in range(_ROUNDS))


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Four random words of 32 bits for a counter of four words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for step_0, step_1 in _KEY_STEPS:
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0 = (product_1 >> 32) ^ c1 ^ (k0 + step_0 & _WORD)
        c1 = product_1 & _WORD
        c2 = (product_0 >> 32) ^ c3 ^ (k1 + step_1 & _WORD)
        c3 = product_0 & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), a multiple of 2^-53, for each seed and position (both below 2^64)."""
    low, high, _, _ = philox4x32(
        (position & _WORD, position >> 32, 0, 0), (seed & _WORD, seed >> 32)
    )
    return ((high << 32 | low) >> 11) * 2.0**-53
