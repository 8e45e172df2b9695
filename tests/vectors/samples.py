# SPDX-License-Identifier: Apache-2.0
"""The valid files of tests/vectors/good: one function each, whose docstring says what it shows.

Everything is drawn from generators with fixed seeds, so each function gives the same bytes always.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shb_writer as shb
from shb_writer import Adapter, Base, Index, Tensor

#: name -> function, in the order of definition.
SAMPLES: dict[str, Callable[[], bytes]] = {}
#: name -> names of the samples whose index sections it refers to.
SOURCES: dict[str, tuple[str, ...]] = {}

#: A secret of the tests, and thus of nobody.
SIGNING_SEED = bytes(range(32))


def sample(function: Callable[[], bytes]) -> Callable[[], bytes]:
    SAMPLES[function.__name__] = function
    return function


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def choose(count: int, of: int, seed: int) -> list[int]:
    """Draw ascending distinct numbers below `of`."""
    return sorted(generator(seed).choice(of, count, replace=False).tolist())


def gaps8(element_count: int, nnz: int, seed: int, block_length: int = 1) -> Index:
    blocks = choose(nnz // block_length, element_count // block_length, seed)
    return shb.blocks_index(shb.GAPS8, element_count, blocks, block_length)


def target(name: str, base: Base, index: Index, seed: int, *, tier: int = 0) -> Tensor:
    """Make a row of target values, with the fingerprint of these positions alone."""
    patterns = shb.random_patterns(base.dtype, index.nnz, generator(seed))
    return Tensor(
        name,
        index,
        base.dtype,
        shb.plain_values(base.dtype, patterns),
        dtype=base.dtype,
        shape=base.shape,
        tier=tier,
        value_kind=shb.TARGET,
        fingerprint=base.hash_at(index.positions),
        base_digest=base.digest(),
    )


def delta(name: str, index: Index, codec: int, seed: int, **fields: Any) -> Tensor:
    """Make a row of unbound deltas; scaled codecs get groups of 64."""
    random = generator(seed)
    if codec not in (shb.Q8, shb.Q4, shb.Q2, shb.Q1):
        patterns = shb.random_patterns(codec, index.nnz, random)
        return Tensor(name, index, codec, shb.plain_values(codec, patterns), **fields)
    group = fields.setdefault("value_group", 64)
    scales = random.integers(0, 1 << 10, -(-index.nnz // group)) / 1024
    width = shb.CODE_BITS[codec]
    if width > 2:
        levels = random.integers(-(1 << (width - 1)), 1 << (width - 1), index.nnz)
    else:
        levels = 2 * random.integers(0, 1 << width, index.nnz) - (1 << width) + 1
    stream = shb.scaled_values(codec, scales.tolist(), levels.tolist())
    return Tensor(name, index, codec, stream, **fields)


def sign_with_test_key(message: bytes) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(SIGNING_SEED)
    return key.public_key().public_bytes_raw(), key.sign(message)


def one_tensor(index: Index, codec: int = shb.F32, seed: int = 1) -> bytes:
    return shb.write([Adapter("a", [delta("w", index, codec, seed)])])


# --- The usual case ---


@sample
def smallest() -> bytes:
    """One adapter, one bound F16 tensor, two target values; the annotated example of FORMAT.md."""
    base = shb.make_base(shb.F16, (2, 3), 11)
    index = shb.blocks_index(shb.GAPS8, 6, [1, 4])
    return shb.write([Adapter("de", [target("w", base, index, 12)])])


@sample
def usual() -> bytes:
    """A bound adapter of three tensors in F32, F16 and BF16, with metadata."""
    tensors = []
    for number, (dtype, shape) in enumerate(
        [(shb.F32, (16, 24)), (shb.F16, (40, 10)), (shb.BF16, (300,))]
    ):
        base = shb.make_base(dtype, shape, 20 + number)
        index = gaps8(base.patterns.size, 30, 30 + number)
        tensors.append(target(f"layers.{number}.weight", base, index, 40 + number))
    metadata = shb.metadata_of(created_by="tests", description="three tensors", mask="random")
    return shb.write([Adapter("german", tensors, metadata)])


@sample
def unbound() -> bytes:
    """An adapter without fingerprints: deltas in F32, F16 and BF16 for tensors of other dtypes."""
    index = gaps8(500, 20, 50)
    tensors = [
        delta("a", index, shb.F16, 51, dtype=shb.F32),
        delta("b", index, shb.F32, 52, dtype=shb.BF16),
        delta("c", index, shb.BF16, 53, dtype=shb.F16),
    ]
    return shb.write([Adapter("unbound", tensors)])


@sample
def one_element() -> bytes:
    """Tensors of one element, rank 1 and rank 8, all of it replaced."""
    base = shb.make_base(shb.F32, (1,), 60)
    index = shb.blocks_index(shb.GAPS8, 1, [0])
    cube = Base(base.dtype, (1,) * 8, base.patterns)
    return shb.write([Adapter("a", [target("s", base, index, 61), target("t", cube, index, 62)])])


@sample
def one_element_f16() -> bytes:
    """Two value streams of two bytes, so with padding between them."""
    index = shb.blocks_index(shb.GAPS8, 1, [0])
    tensors = [delta("s", index, shb.F16, 61), delta("t", index, shb.F16, 62)]
    return shb.write([Adapter("a", tensors)])


@sample
def highest_rank() -> bytes:
    """A tensor of rank 8."""
    base = shb.make_base(shb.BF16, (2, 1, 3, 1, 2, 2, 1, 5), 63)
    return shb.write([Adapter("a", [target("w", base, gaps8(120, 9, 64), 65)])])


@sample
def every_element() -> bytes:
    """Has as many entries as elements: a dense mask as gaps of zero, and as one run."""
    dense = shb.blocks_index(shb.GAPS8, 70, range(70))
    run = shb.runs_index(70, [(0, 70)])
    tensors = [delta("a", dense, shb.F32, 66), delta("b", run, shb.F16, 67)]
    return shb.write([Adapter("a", tensors)])


# --- Index codecs ---


@sample
def gaps8_long() -> bytes:
    """GAPS8 with gaps of 0, 254, 255, 256, 510 and 700."""
    blocks = [0, 1, 256, 512, 769, 1280, 1981]
    return one_tensor(shb.blocks_index(shb.GAPS8, 1982, blocks))


@sample
def gaps16_long() -> bytes:
    """GAPS16 with gaps of 0, 65,534, 65,535 and 140,000, to the last element."""
    blocks = [0, 1, 65_536, 131_072, 271_073]
    return one_tensor(shb.blocks_index(shb.GAPS16, 271_074, blocks))


@sample
def gaps_in_blocks() -> bytes:
    """GAPS8 and GAPS16 over blocks, with a tensor that ends inside a block."""
    first = gaps8(1005, 160, 70, block_length=16)
    second = shb.blocks_index(shb.GAPS16, 1005, choose(20, 335, 71), 3)
    tensors = [delta("a", first, shb.F16, 72), delta("b", second, shb.F16, 73)]
    return shb.write([Adapter("a", tensors)])


@sample
def rice() -> bytes:
    """RICE with 0, 1, 3, 6 and 8 low bits, with and without unused bits."""
    tensors = []
    for number, (bits, nnz) in enumerate([(0, 40), (1, 9), (3, 16), (6, 13), (8, 1)]):
        index = shb.blocks_index(shb.RICE, 2000, choose(nnz, 2000, 80 + number), 1, bits)
        tensors.append(delta(f"t{number}", index, shb.F16, 90 + number))
    return shb.write([Adapter("a", tensors)])


@sample
def rice_in_blocks() -> bytes:
    """RICE over blocks of 4."""
    return one_tensor(shb.blocks_index(shb.RICE, 803, choose(21, 200, 95), 4, 3), shb.F16)


@sample
def rice_widest() -> bytes:
    """RICE with 31 low bits, up to the last element of the largest tensor."""
    blocks = [5, 2**31 + 6, 4_294_967_294]
    return one_tensor(shb.blocks_index(shb.RICE, 4_294_967_295, blocks, 1, 31))


@sample
def runs() -> bytes:
    """RUNS of lengths 1 to 300, with gaps and lengths of one and two LEB128 bytes."""
    index = shb.runs_index(2000, [(0, 5), (6, 1), (134, 128), (263, 129), (700, 300), (1999, 1)])
    return one_tensor(index, shb.F16)


@sample
def runs_widest() -> bytes:
    """RUNS with a gap of five LEB128 bytes, up to the last element of the largest tensor."""
    return one_tensor(shb.runs_index(4_294_967_295, [(4_294_967_200, 3), (4_294_967_290, 5)]))


@sample
def struct_masks() -> bytes:
    """STRUCT: rows, columns, the diagonal, and all of them, wide and tall."""
    tensors = []
    for number, (columns, parts, period, phase) in enumerate(
        [(12, 1, 4, 1), (12, 2, 5, 0), (12, 4, 1, 0), (12, 7, 4, 3), (20, 5, 6, 2), (6, 6, 3, 2)]
    ):
        index = shb.struct_index(240, parts, columns, period, phase)
        tensors.append(
            delta(f"t{number}", index, shb.F16, 100 + number, shape=(240 // columns, columns))
        )
    return shb.write([Adapter("a", tensors)])


@sample
def random_masks() -> bytes:
    """RANDOM: single entries, blocks of 8, a seed with all bits set, and every block."""
    masks = [
        shb.random_index(5000, 50, 7),
        shb.random_index(5000, 20, 2**64 - 1, 8),
        shb.random_index(40, 40, 0),
    ]
    tensors = [delta(f"t{i}", index, shb.F16, 110 + i) for i, index in enumerate(masks)]
    return shb.write([Adapter("a", tensors)])


@sample
def random_widest() -> bytes:
    """RANDOM in the largest tensor, where the products of the strata need 64 bits."""
    return one_tensor(shb.random_index(4_294_967_295, 33, 12345), shb.F16)


def topk_base(dtype: int) -> Base:
    """A base with many equal magnitudes, of both signs."""
    return shb.make_base(dtype, (20, 15), 120 + dtype)


@sample
def topk() -> bytes:
    """TOPK in F32, F16 and BF16 with ties of magnitude, bound to the bases of `topk_base`."""
    tensors = []
    for dtype in (shb.F32, shb.F16, shb.BF16):
        base = topk_base(dtype)
        index = shb.top_index(300, 40)
        tensor = target(f"t{dtype}", base, index, 130 + dtype)
        tensor.fingerprint = base.hash_at(shb.top_positions(base, 40))
        tensors.append(tensor)
    return shb.write([Adapter("a", tensors)])


# --- Value codecs ---


@sample
def float_extremes() -> bytes:
    """F32, F16 and BF16 values at the edges: -0.0, subnormals, the largest finite ones."""
    index = shb.runs_index(100, [(10, 8)])
    patterns = {
        shb.F32: (4, [0x80000000, 1, 0x807FFFFF, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000, 0, 0x800000]),
        shb.F16: (2, [0x8000, 1, 0x83FF, 0x7BFF, 0xFBFF, 0x3C00, 0, 0x400]),
        shb.BF16: (2, [0x8000, 1, 0x807F, 0x7F7F, 0xFF7F, 0x3F80, 0, 0x80]),
    }
    tensors = [
        Tensor(f"t{codec}", index, codec, b"".join(bits.to_bytes(width, "little") for bits in each))
        for codec, (width, each) in patterns.items()
    ]
    return shb.write([Adapter("a", tensors)])


@sample
def integer_codes() -> bytes:
    """I8 and I4 target codes, all sixteen of I4, with odd numbers of entries."""
    wide, narrow = shb.make_base(shb.I8, (9, 9), 140), shb.make_base(shb.I4, (9, 9), 141)
    codes = np.arange(-8, 9, dtype=np.int8)
    codes[-1] = 3
    tensors = [
        target("a", wide, gaps8(81, 11, 142), 143),
        target("b", narrow, gaps8(81, 17, 144), 1),
    ]
    tensors[1].stream = shb.plain_values(shb.I4, codes)
    return shb.write([Adapter("a", tensors)])


def scaled(codec: int, seed: int) -> bytes:
    """Write whole and partial groups, several group sizes, and both ends of scale_exponent."""
    tensors = []
    for number, (nnz, group, exponent) in enumerate(
        [(1, 64, 0), (128, 64, -3), (131, 64, 64), (157, 72, -64), (20, 4_294_967_288, 1)]
    ):
        index = gaps8(900, nnz, seed + number)
        tensors.append(
            delta(
                f"t{number}",
                index,
                codec,
                seed + 10 + number,
                value_group=group,
                scale_exponent=exponent,
                dtype=(shb.F32, shb.F16, shb.BF16)[number % 3],
            )
        )
    return shb.write([Adapter("a", tensors)])


@sample
def scaled_q8() -> bytes:
    """Q8 deltas."""
    return scaled(shb.Q8, 150)


@sample
def scaled_q4() -> bytes:
    """Q4 deltas."""
    return scaled(shb.Q4, 170)


@sample
def scaled_q2() -> bytes:
    """Q2 deltas."""
    return scaled(shb.Q2, 190)


@sample
def scaled_q1() -> bytes:
    """Q1 deltas."""
    return scaled(shb.Q1, 210)


@sample
def scaled_edges() -> bytes:
    """Scales of zero (negative levels give -0.0), the smallest and the largest f16."""
    index = shb.runs_index(300, [(0, 192)])
    smallest, largest = 2.0**-24, 65504.0
    levels = [-8, 7, 0, -1] * 48
    signs = [-1, 1] * 96
    tensors = [
        Tensor("a", index, shb.Q4, shb.scaled_values(shb.Q4, [0, smallest, largest], levels)),
        Tensor("b", index, shb.Q1, shb.scaled_values(shb.Q1, [0, smallest, largest], signs)),
    ]
    for tensor in tensors:
        tensor.value_group = 64
    return shb.write([Adapter("a", tensors)])


@sample
def every_codec_pair() -> bytes:
    """Each explicit and implicit index codec that needs no base with each delta codec."""
    masks = [
        gaps8(800, 67, 220),
        shb.blocks_index(shb.GAPS16, 800, choose(67, 800, 221)),
        shb.blocks_index(shb.RICE, 800, choose(67, 800, 222), 1, 3),
        shb.runs_index(800, [(3, 60), (100, 7)]),
        shb.struct_index(800, 1, 20, 10, 3),
        shb.random_index(800, 67, 223),
    ]
    codecs = [shb.F32, shb.F16, shb.BF16, shb.Q8, shb.Q4, shb.Q2, shb.Q1]
    tensors = [
        delta(f"t{index.codec}{codec}", index, codec, 230 + 10 * index.codec + codec)
        for index in masks
        for codec in codecs
    ]
    return shb.write([Adapter("a", tensors)])


# --- Tiers, packs, references ---


def tiered_tensor(
    name: str, base: Base, tiers: Sequence[int], per_tier: int, seed: int
) -> list[Tensor]:
    """Split one tensor's target values over tiers; fingerprints cover the lower tiers, too."""
    order = generator(seed).permutation(base.patterns.size).tolist()
    covered: list[int] = []
    rows = []
    for number, tier in enumerate(tiers):
        positions = sorted(order[number * per_tier : (number + 1) * per_tier])
        index = shb.blocks_index(shb.GAPS8, base.patterns.size, positions)
        row = target(name, base, index, seed + 1 + number, tier=tier)
        covered = sorted(covered + positions)
        row.fingerprint = base.hash_at(covered)
        rows.append(row)
    return rows


def in_row_order(*tensors: Sequence[Tensor]) -> list[Tensor]:
    flat = [row for rows in tensors for row in rows]
    return sorted(flat, key=lambda row: (row.tier, row.name))


@sample
def tiers() -> bytes:
    """Three tiers of a bound adapter; one tensor has no entries in the middle tier."""
    first, second = shb.make_base(shb.F16, (30, 30), 300), shb.make_base(shb.F32, (25, 8), 301)
    rows = in_row_order(
        tiered_tensor("b", first, (0, 1, 2), 25, 302), tiered_tensor("a", second, (0, 2), 10, 312)
    )
    return shb.write([Adapter("a", rows)], tier_count=3)


@sample
def tiers_scaled() -> bytes:
    """Tiers of Q4 deltas with a group and an exponent of their own; unbound, with runs and RICE."""
    masks = [
        shb.runs_index(1000, [(0, 80)]),
        shb.blocks_index(shb.RICE, 1000, range(100, 500, 4), 1, 2),
    ]
    rows = [
        delta("w", masks[0], shb.Q4, 320, tier=0, value_group=64, scale_exponent=2),
        delta("w", masks[1], shb.Q4, 321, tier=1, value_group=72, scale_exponent=-2),
    ]
    return shb.write([Adapter("a", rows)], tier_count=2)


@sample
def tiers_most() -> bytes:
    """Eight tiers, of which a tensor has only the highest and another only the lowest."""
    base = shb.make_base(shb.F16, (64,), 330)
    rows = in_row_order(
        tiered_tensor("all", base, range(8), 8, 331),
        tiered_tensor("high", base, (7,), 5, 350),
        tiered_tensor("low", base, (0,), 5, 360),
    )
    return shb.write([Adapter("a", rows)], tier_count=8)


@sample
def pack_shared() -> bytes:
    """Three adapters of one mask: the positions are there once, names and values three times."""
    bases = [shb.make_base(shb.F16, (20, 20), 370), shb.make_base(shb.F32, (400,), 371)]
    index = gaps8(400, 33, 372)
    adapters = [
        Adapter(
            name,
            [target(f"w{i}", base, index, 373 + 10 * number + i) for i, base in enumerate(bases)],
            shb.metadata_of(description=name),
        )
        for number, name in enumerate(["de", "fr", "it"])
    ]
    return shb.write(adapters)


@sample
def pack_mixed() -> bytes:
    """A bound and an unbound adapter, masks shared partly, names stored again for each row."""
    base = shb.make_base(shb.BF16, (30, 10), 400)
    shared, own = gaps8(300, 21, 401), shb.runs_index(300, [(7, 40)])
    adapters = [
        Adapter("one", [target("w", base, shared, 402)]),
        Adapter(
            "two",
            [delta("v", own, shb.F16, 403), delta("w", shared, shb.Q8, 404, dtype=shb.BF16)],
            b'{ "train":\n[1, 2] }',
        ),
    ]
    return shb.write(adapters, repeat_names=False)


@sample
def pack_in_tiers() -> bytes:
    """Two adapters in two tiers, with one mask per tier shared by both."""
    masks = [gaps8(500, 20, 410), shb.blocks_index(shb.GAPS8, 500, [])]
    free = [flat for flat in range(500) if flat not in masks[0].positions]
    masks[1] = shb.blocks_index(shb.GAPS8, 500, free[::9])
    adapters = [
        Adapter(name, [delta("w", masks[tier], shb.F16, 411 + tier, tier=tier) for tier in (0, 1)])
        for name in ("x", "y")
    ]
    return shb.write(adapters, tier_count=2)


def index_sha256(data: bytes, tier: int = 0) -> bytes:
    return hashlib.sha256(shb.Image(data).content(4 + 2 * tier)).digest()


def reference_masks() -> list[Index]:
    return [gaps8(400, 25, 420), shb.runs_index(300, [(9, 12), (50, 3)])]


@sample
def reference_source() -> bytes:
    """The file whose positions `reference` uses."""
    names = ("first", "second")
    tensors = [
        delta(name, index, shb.F16, 421)
        for name, index in zip(names, reference_masks(), strict=True)
    ]
    return shb.write([Adapter("source", tensors)])


SOURCES["reference"] = ("reference_source",)


@sample
def reference() -> bytes:
    """An adapter whose positions are in `reference_source`."""
    first, second = reference_masks()
    tensors = [delta("other", first, shb.Q2, 430), delta("same", second, shb.F32, 431)]
    return shb.write([Adapter("user", tensors)], references={0: index_sha256(reference_source())})


@sample
def random_source() -> bytes:
    """One RANDOM mask, for others to refer to."""
    return one_tensor(shb.random_index(60, 5, 1), shb.F16)


SOURCES["reference_in_tiers"] = ("tiers_scaled",)


@sample
def reference_in_tiers() -> bytes:
    """Two tiers: the lower with an INDEX, the higher with the tier 1 of `tiers_scaled`."""
    own = shb.runs_index(1000, [(600, 70)])
    other = shb.blocks_index(shb.RICE, 1000, range(100, 500, 4), 1, 2)
    tensors = [delta("w", own, shb.F16, 440), delta("w", other, shb.F16, 441, tier=1)]
    return shb.write(
        [Adapter("user", tensors)],
        tier_count=2,
        references={1: index_sha256(tiers_scaled(), tier=1)},
    )


def struct_indices() -> list[Index]:
    """The masks of `struct_masks` in the order of its table."""
    return [
        shb.struct_index(240, parts, columns, period, phase)
        for columns, parts, period, phase in [
            (12, 1, 4, 1),
            (12, 2, 5, 0),
            (12, 4, 1, 0),
            (12, 7, 4, 3),
            (20, 5, 6, 2),
            (6, 6, 3, 2),
        ]
    ]


SOURCES["reference_derived"] = ("struct_masks",)


@sample
def reference_derived() -> bytes:
    """A derived mask taken from `struct_masks`; every row of the table is named."""
    tensors = [delta(f"t{i}", index, shb.Q8, 450 + i) for i, index in enumerate(struct_indices())]
    return shb.write([Adapter("user", tensors)], references={0: index_sha256(struct_masks())})


# --- Names, metadata, evolution, signature ---


@sample
def names() -> bytes:
    """Names of one byte, of 1,024 bytes, and in several scripts, in bytewise order."""
    index = gaps8(50, 3, 460)
    tensor_names = ["!", "a" * 1024, "größe.weight", "\u00a0", "\ufeffw", "重み", "\U0001f600"]
    tensors = [
        delta(name, index, shb.F16, 461 + i)
        for i, name in enumerate(sorted(tensor_names, key=str.encode))
    ]
    return shb.write([Adapter("Ωmega 日本", tensors)])


@sample
def names_of_adapters() -> bytes:
    """A tensor with the name of its adapter: both rows point to the same bytes."""
    index = gaps8(50, 3, 470)
    return shb.write([Adapter("same", [delta("same", index, shb.F16, 471)])])


@sample
def metadata() -> bytes:
    """JSON that a reader has to take: depth 64, huge numbers, a key twice, lone surrogates."""
    texts = [
        b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"n":' + b"9" * 5000 + b',"e":1e99999,"m":-0.0E-7}',
        b'{"k":1,"k":{"k":"\\ud800 \\u0000 \\"[[{"}}',
        '{"é":"日本 \U0001f600 \x7f"}'.encode(),
        b'{ \t\r\n"":null,"x":[true,false,[],{}] }',
    ]
    index = gaps8(50, 3, 480)
    adapters = [
        Adapter(f"a{i}", [delta("w", index, shb.F16, 481 + i)], text)
        for i, text in enumerate(texts)
    ]
    return shb.write(adapters)


@sample
def minor_version() -> bytes:
    """version_minor 7 and all bits of optional_features: from a later writer, and readable."""
    tensor = delta("w", gaps8(50, 3, 490), shb.F16, 491)
    return shb.write(
        [Adapter("a", [tensor])], version_minor=7, optional_features=0xFFFFFFFFFFFFFFFF
    )


@sample
def optional_sections() -> bytes:
    """Optional sections of unknown kinds, the same kind twice, one of a single byte."""
    tensor = delta("w", gaps8(50, 3, 500), shb.F16, 501)
    extra = [(40_000, b"x"), (32_768, bytes(100)), (40_000, b"unknown"), (2**32 - 1, b"\xff" * 65)]
    return shb.write([Adapter("a", [tensor])], optional=extra)


@sample
def most_sections() -> bytes:
    """64 sections."""
    tensor = delta("w", gaps8(50, 3, 510), shb.F16, 511)
    extra = [(32_768 + i, struct.pack("<I", i)) for i in range(58)]
    return shb.write([Adapter("a", [tensor])], optional=extra)


@sample
def signed() -> bytes:
    """Signed with the key whose seed is the bytes 0 to 31."""
    base = shb.make_base(shb.F16, (10, 10), 520)
    tensors = [target("w", base, gaps8(100, 6, 521), 522)]
    return shb.write([Adapter("a", tensors)], sign=sign_with_test_key)


@sample
def signed_pack() -> bytes:
    """A signed pack in two tiers with an optional section."""
    masks = [shb.runs_index(90, [(0, 9)]), shb.runs_index(90, [(20, 9)])]
    adapters = [
        Adapter(name, [delta("w", masks[tier], shb.Q8, 530 + tier, tier=tier) for tier in (0, 1)])
        for name in ("x", "y")
    ]
    return shb.write(adapters, tier_count=2, optional=[(50_000, b"note")], sign=sign_with_test_key)
