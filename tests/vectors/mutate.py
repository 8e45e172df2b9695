# SPDX-License-Identifier: Apache-2.0
"""Changes .shb files where it hurts: fields, rows, streams and sections, under mended checksums."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import shb_writer as shb
from shb_writer import Image

# (offset, width) of the integers in each part; bytes of hashes and checksums are left out.
HEADER_FIELDS = [(8, 2), (10, 2), (12, 4), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 4)]
HEADER_FIELDS += [(52, 4), (60, 4), (96, 4), (100, 1), (128, 1), (223, 1), (224, 1), (251, 1)]
SECTION_FIELDS = [(0, 4), (8, 8), (16, 8), (24, 4), (28, 4)]
ADAPTER_FIELDS = [(offset, 4) for offset in range(0, 64, 4)]
TENSOR_FIELDS = [(0, 4), (4, 4), *((offset, 1) for offset in range(8, 16)), (16, 4), (20, 4)]
TENSOR_FIELDS += [(24, 8), (32, 8), (40, 8), (48, 8), (56, 8)]
TENSOR_FIELDS += [(offset, 4) for offset in range(64, 96, 4)] + [(96, 1), (112, 1)]
INDEX_FIELDS = [(0, 1), (1, 1), (2, 2), (4, 4), (8, 4), (12, 4), (16, 8), (24, 8), (32, 8), (40, 8)]


def mutate(data: bytes, random: Random) -> bytes:
    """Apply one to three changes; in most cases all checksums fit again afterwards."""
    for _ in range(random.randint(1, 3)):
        image = Image(data)
        random.choice(_CHANGES)(image, random)
        data = image.raw()
        if len(data) < 640:
            return data
        kept = shb.mend(data)
        if not _is_walkable(kept):
            return kept
        data = kept
    return data if random.randint(0, 19) else _scratch(data, random)


def _is_walkable(data: bytes) -> bool:
    """Whether the section table still leads to sections that can be changed."""
    image = Image(data)
    count = image.u32(40)
    if not 6 <= count <= 64 or 256 + 64 * count > len(data):
        return False
    ends = [image.offset(i) + image.size(i) for i in range(count)]
    return max(ends) <= len(data) and min(image.size(i) for i in range(count)) > 0


def _scratch(data: bytes, random: Random) -> bytes:
    """Change a byte without mending anything."""
    out = bytearray(data)
    out[random.randrange(len(out))] ^= random.randint(1, 255)
    return bytes(out)


def _interesting(old: int, width: int, random: Random) -> int:
    limit = 1 << (8 * width)
    near = [old + 1, old - 1, old + 8, old - 8, old * 2, old // 2, old ^ 1, old ^ (limit >> 1)]
    edges = [0, 1, 2, 63, 64, 255, 256, 65_535, 65_536, limit - 1, limit // 2, 1 << 32, 1 << 24]
    return random.choice([*near, *edges, random.randrange(limit)]) % limit


def _poke(image: Image, begin: int, fields: list[tuple[int, int]], random: Random) -> None:
    offset, width = random.choice(fields)
    place = begin + offset
    if place + width <= len(image.data):
        old = int.from_bytes(image.data[place : place + width], "little")
        image.put(place, _interesting(old, width, random), width)


def _poke_header(image: Image, random: Random) -> None:
    _poke(image, 0, HEADER_FIELDS, random)


def _poke_section(image: Image, random: Random) -> None:
    _poke(image, image.section_row(random.randrange(image.u32(40))), SECTION_FIELDS, random)


def _poke_adapter(image: Image, random: Random) -> None:
    _poke(image, image.adapter(_row(image, 0, 64, random)), ADAPTER_FIELDS, random)


def _poke_tensor(image: Image, random: Random) -> None:
    _poke(image, image.tensor(_row(image, 1, 128, random)), TENSOR_FIELDS, random)


def _poke_index(image: Image, random: Random) -> None:
    number = _index_section(image, random)
    rows = max(1, image.u32(image.section_row(number) + 28) % 1000)
    _poke(image, image.offset(number) + 48 * random.randrange(rows), INDEX_FIELDS, random)


def _row(image: Image, number: int, row_bytes: int, random: Random) -> int:
    return random.randrange(max(1, image.size(number) // row_bytes))


def _index_section(image: Image, random: Random) -> int:
    return 4 + 2 * random.randrange((image.u32(40) - 4) // 2)


def _overwrite(image: Image, random: Random) -> None:
    """Put a few bytes anywhere into NAMES or what follows: texts, streams, padding."""
    place = random.randrange(image.offset(2), len(image.data))
    for i in range(random.randint(1, 4)):
        if place + i < len(image.data):
            image.data[place + i] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])


def _flip_stream_bit(image: Image, random: Random) -> None:
    number = random.randrange(4, image.u32(40))
    place = image.offset(number) + random.randrange(image.size(number))
    image.data[place] ^= 1 << random.randrange(8)


def _resize(image: Image, random: Random) -> None:
    number = random.randrange(image.u32(40))
    content = image.content(number)
    extra = random.choice([1, 2, 7, 8, 32, 48, 64, 128])
    if random.randrange(2):
        image.resize(number, content + bytes(random.choice([0, 255]) for _ in range(extra)))
    elif extra < len(content):
        image.resize(number, content[:-extra])


def _swap_rows(image: Image, random: Random) -> None:
    number, row_bytes = random.choice([(0, 64), (1, 128)])
    first, second = (
        image.offset(number) + row_bytes * _row(image, number, row_bytes, random) for _ in range(2)
    )
    if max(first, second) + row_bytes <= len(image.data):
        row = bytes(image.data[first : first + row_bytes])
        image.put_bytes(first, bytes(image.data[second : second + row_bytes]))
        image.put_bytes(second, row)


def _cut(image: Image, random: Random) -> None:
    del image.data[random.randrange(len(image.data)) :]


def _append(image: Image, random: Random) -> None:
    image.data += bytes(random.randint(1, 65))


_CHANGES: list[Callable[[Image, Random], None]] = [
    _poke_header,
    *[_poke_section] * 2,
    *[_poke_adapter] * 2,
    *[_poke_tensor] * 6,
    *[_poke_index] * 6,
    *[_overwrite] * 3,
    *[_flip_stream_bit] * 6,
    *[_resize] * 3,
    _swap_rows,
    _cut,
    _append,
]
