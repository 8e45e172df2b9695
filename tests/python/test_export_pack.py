# SPDX-License-Identifier: Apache-2.0
"""Packs: several adapters of one base in a file that stores equal positions and names once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from export_inputs import weights
from shb_reader import adapter_values, parse_shb

from shira_runtime.export.build import Adapter, AdapterTensor, build_adapter, build_file
from shira_runtime.export.errors import ExportError
from shira_runtime.export.image import IndexCodec, IndexReference, IndexStream, sha256
from shira_runtime.export.pack import pack_adapters
from shira_runtime.export.reader import read
from shira_runtime.export.writer import write_image

SHAPE = (16, 24)
MASK = np.arange(5, 380, 7)


def tensor(name: str = "a", seed: int = 0, indices: Any = MASK, **changes: Any) -> AdapterTensor:
    base = changes.pop("base", weights(SHAPE)).reshape(-1)
    fields: dict[str, Any] = {
        "dtype": "f32",
        "shape": SHAPE,
        "values": np.random.default_rng(seed).normal(size=indices.size).astype(np.float16),
        "kind": "delta",
        "fingerprint": xxhash.xxh3_128_digest(base[indices].tobytes()),
        "base_digest": xxhash.xxh3_128_digest(base.tobytes()),
    }
    return AdapterTensor(name, indices=indices, **{**fields, **changes})


def adapter(name: str, *tensors: AdapterTensor) -> bytes:
    return build_adapter(name, tensors, {"description": name}).content


def test_a_pack_holds_what_its_files_held(tmp_path: Path) -> None:
    files = [
        adapter("de", tensor("a", 1), tensor("b", 2)),
        adapter("fr", tensor("a", 3), tensor("c", 4, MASK[:9])),
        adapter("ru", tensor("b", 5, MASK[::2]), tensor("a", 6)),
    ]
    paths = [tmp_path / f"{i}.shb" for i in range(3)]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    pack = pack_adapters(files)
    assert pack_adapters(paths) == pack_adapters([str(path) for path in paths]) == pack
    opened = read(pack)
    assert [a.name for a in opened.adapters] == ["de", "fr", "ru"]
    for content in files:
        single = parse_shb(content)
        found = adapter_values(opened, single["name"])
        assert found["metadata"] == single["metadata"]
        assert found["tensors"].keys() == single["tensors"].keys()
        for name, expected in single["tensors"].items():
            for what in ("indices", "values"):
                assert found["tensors"][name][what].tobytes() == expected[what].tobytes()
            assert found["tensors"][name]["fingerprint"] == expected["fingerprint"]
    # a of all three and b of the first have one mask.
    (section,) = opened.index_sections.values()
    assert len(section) == 3


def test_adapters_of_one_mask_store_it_once() -> None:
    files = [adapter(f"adapter {i}", tensor(seed=i)) for i in range(8)]
    pack = pack_adapters(files)
    values_and_rows = (
        2 * MASK.size + 64 + 128 + len("adapter 0") + len('{"description":"adapter 0"}')
    )
    assert len(pack) <= len(files[0]) + 7 * (values_and_rows + 16)


def test_a_pack_of_a_pack_and_of_one_file() -> None:
    files = [adapter(name, tensor(seed=i)) for i, name in enumerate("abc")]
    assert pack_adapters([pack_adapters(files[:2]), files[2]]) == pack_adapters(files)
    assert pack_adapters(files[:1]) == files[0]


def test_the_same_as_building_it_at_once() -> None:
    adapters = [
        Adapter("de", [tensor("a", 1), tensor("b", 2)], {"description": "de"}),
        Adapter("fr", [tensor("a", 3)], {"description": "fr"}),
    ]
    files = [build_adapter(a.name, a.tensors, a.metadata).content for a in adapters]
    assert build_file(adapters).content == pack_adapters(files)


def test_tiers_are_kept() -> None:
    parts = [
        tensor("a", 1, MASK[::2], tier=0),
        tensor("a", 2, MASK[1::2], tier=1),
    ]
    whole = weights(SHAPE).reshape(-1)[MASK].tobytes()
    parts[1] = tensor("a", 2, MASK[1::2], tier=1, fingerprint=xxhash.xxh3_128_digest(whole))
    pack = pack_adapters([adapter("tiers", *parts), adapter("flat", tensor("b", 3))])
    assert read(pack).tier_count == 2
    assert read(pack).adapter("tiers").tensors["a"].matches(weights(SHAPE))
    assert [a.name for a in read(pack, tiers=1).adapters] == ["tiers", "flat"]


def test_positions_that_a_file_refers_to_are_found_in_the_pack() -> None:
    owner = build_adapter("owner", [tensor(seed=1)])
    guest = build_adapter("guest", [tensor(seed=2)])
    digests = {section.kind: section for section in owner.sections}
    offset = owner.content.index(guest.image.index[0].streams[0].stream)  # type: ignore[union-attr]
    start = offset - 48
    section = owner.content[start : start + digests[5].size_bytes]
    reference = IndexReference(sha256(section), 1)
    from dataclasses import replace

    referring = write_image(replace(guest.image, index=(reference,))).content
    for files in ([owner.content, referring], [referring, owner.content]):
        pack = pack_adapters(files)
        assert len(read(pack).adapters) == 2
    with pytest.raises(ExportError, match="file 1: takes its positions from another file"):
        pack_adapters([referring])


OTHER_BASE = weights(SHAPE, seed=5)
REFUSED: dict[str, tuple[list[bytes], str]] = {
    "nothing": ([], "nothing to pack"),
    "not a file": ([b"PK\3\4"], "file 1: TRUNCATED"),
    "one name": (
        [adapter("de", tensor(seed=1)), adapter("de", tensor(seed=2))],
        "file 2: its adapter de has the name of one in file 1",
    ),
    "one content": (
        [adapter("de", tensor(seed=1)), adapter("fr", tensor(seed=1))],
        "file 2: its adapter fr holds the same as de in file 1",
    ),
    "another shape": (
        [adapter("de", tensor()), adapter("fr", tensor(shape=(24, 16)))],
        r"file 2: tensor a has shape \(24, 16\), in file 1 \(16, 24\)",
    ),
    "another dtype": (
        [adapter("de", tensor()), adapter("fr", tensor(dtype="f16"))],
        "file 2: tensor a has dtype f16, in file 1 f32",
    ),
    "another base": (
        [adapter("de", tensor()), adapter("fr", tensor(seed=1, base=OTHER_BASE))],
        "file 2: tensor a was made for other base values than in file 1",
    ),
    "another base, with an unbound one first": (
        [
            adapter("x", tensor(fingerprint=None, base_digest=None)),
            adapter("de", tensor(seed=1)),
            adapter("fr", tensor(seed=2, base=OTHER_BASE)),
        ],
        "file 3: tensor a was made for other base values than in file 2",
    ),
    "a rule and tiers": (
        [
            build_adapter(
                "x",
                [tensor(rules=(IndexStream(IndexCodec.TOPK, 0, 0, 1, 384, MASK.size, b""),))],
                index="topk",
            ).content,
            adapter("t", tensor("b", 1), tensor("b", 1, MASK + 1, tier=1)),
        ],
        "a file of several tiers holds no derived masks",
    ),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_belong_together_is_refused(files: list[bytes], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        pack_adapters(files)
