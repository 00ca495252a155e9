"""In which order a std::unordered_map<std::string, T> gives its elements, as GNU's standard library builds it.

From libstdc++'s hashtable.h and hash_bytes.cc: a string's hash is MurmurHash64A with the seed 0xc70f6907, a map has a
prime number of buckets, the first that is twice the last one where its elements get too many, a new element goes to the front
of its bucket, and the first of a bucket to the front of all.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

_MULTIPLIER = 0xC6A4A7935BD1E995
_MASK = 0xFFFFFFFFFFFFFFFF
_SEED = 0xC70F6907

_PRIMES = (
    *(
        2,
        3,
        5,
        7,
        11,
        13,
        17,
        19,
        23,
        29,
        31,
        37,
        41,
        43,
        47,
        53,
        59,
        61,
        67,
        71,
        73,
        79,
        83,
        89,
        97,
        103,
        109,
        113,
        127,
        137,
        139,
        149,
        157,
        167,
    ),
    *(179, 193, 199, 211, 227, 241, 257, 277, 293, 313, 337, 359, 383, 409, 439, 467, 503, 541, 577, 619, 661, 709, 761, 823),
    *(887, 953, 1031, 1109, 1193, 1289, 1381, 1493, 1613, 1741, 1879, 2029),
)
"""Bucket counts that the rehash policy chooses among (__prime_list), up to 2,029."""


def string_hash(text: bytes) -> int:
    """std::hash<std::string> on 64 bits."""
    value = (_SEED ^ (len(text) * _MULTIPLIER)) & _MASK
    whole = len(text) & ~7
    for at in range(0, whole, 8):
        data = _mixed(int.from_bytes(text[at : at + 8], "little") * _MULTIPLIER & _MASK) * _MULTIPLIER & _MASK
        value = (value ^ data) * _MULTIPLIER & _MASK
    if len(text) & 7:
        value = (value ^ int.from_bytes(text[whole:], "little")) * _MULTIPLIER & _MASK
    value = _mixed(value) * _MULTIPLIER & _MASK
    return _mixed(value)


def _mixed(value: int) -> int:
    return value ^ (value >> 47)


def map_order(keys: Iterable[str]) -> list[str]:
    """Keys in the order of a map that they were put into one after the other; one that comes again is dropped.

    Raises ValueError for more than 2,029 keys.
    """
    buckets, order = 1, []  # type: tuple[int, list[str]]
    for number, key in enumerate(dict.fromkeys(keys)):
        if number + 1 > buckets or number == 0:
            buckets = _next_prime(max(number + 2, 12 if number == 0 else 0, 2 * buckets))
            order = _linked(order, buckets)
        order = _linked([key], buckets, order)
    return order


def _linked(keys: list[str], buckets: int, order: list[str] | None = None) -> list[str]:
    """Keys put into `order` one after the other: behind what stands before their bucket, or in front of all."""
    made = list(order or ())
    for key in keys:
        bucket = _bucket(key, buckets)
        place = next((at for at, each in enumerate(made) if _bucket(each, buckets) == bucket), 0)
        made.insert(place, key)
    return made


def _next_prime(least: int) -> int:
    found = next((prime for prime in _PRIMES if prime >= least), None)
    if found is None:
        raise ValueError(least)
    return found


@lru_cache(maxsize=4096)
def _bucket(key: str, buckets: int) -> int:
    return string_hash(key.encode()) % buckets
