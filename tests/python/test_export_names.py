# SPDX-License-Identifier: Apache-2.0
"""Names of checkpoints and programs: what is matched, and what is not guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shira_runtime.export.errors import ExportError
from shira_runtime.export.names import NameMatch, NameMatcher, refuse_shared_targets

PROGRAM = ["model.layers.0.q.weight", "model.layers.1.q.weight", "model.head.weight", "weight"]


def match(
    source: str,
    names: list[str] | None = None,
    name_map: dict[str, str] | None = None,
    renames: list[tuple[str, str]] | None = None,
) -> tuple[str, str] | None:
    matcher = NameMatcher(names or PROGRAM, name_map or {}, renames or [], "model.pte")
    found = matcher.match(source, f"x.pt: tensor {source}")
    return None if found is None else (found.target, found.how)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("model.layers.0.q.weight", ("model.layers.0.q.weight", "exact")),
        ("base_model.model.model.layers.1.q.weight", ("model.layers.1.q.weight", "unwrapped")),
        ("module._orig_mod.model.head.weight", ("model.head.weight", "unwrapped")),
        ("layers.0.q.weight", ("model.layers.0.q.weight", "suffix")),
        ("base_model.model.layers.0.q.weight", ("model.layers.0.q.weight", "suffix")),
        ("net.model.head.weight", ("model.head.weight", "suffix")),
        ("weight", ("weight", "exact")),
        ("other.weight", None),
        ("ayers.0.q.weight", None),
        ("xmodel.head.weight", None),
        ("layers.2.q.weight", None),
    ],
)
def test_exact_wins_then_a_unique_suffix(source: str, expected: tuple[str, str] | None) -> None:
    assert match(source) == expected


def test_ambiguity_is_refused_with_the_candidates() -> None:
    message = (
        r"^x.pt: tensor q.weight: 2 tensors of model.pte fit this name"
        r" \(model.layers.0.q.weight, model.layers.1.q.weight\); choose with --rename"
    )
    with pytest.raises(ExportError, match=message):
        match("q.weight")
    with pytest.raises(ExportError, match="2 tensors"):
        match("a.b.c.weight", ["b.c.weight", "c.weight"])


def test_renames_come_first_and_in_order() -> None:
    renames = [(r"^q\.", r"layers.1.q."), (r"layers\.(\d)", r"model.layers.\1")]
    assert match("q.weight", renames=renames) == ("model.layers.1.q.weight", "renamed")


def test_the_name_map_of_a_program_counts_as_its_names() -> None:
    names, name_map = ["p_a", "p_b"], {"p_a": "layers.0.weight", "p_b": "layers.1.weight"}
    assert match("layers.1.weight", names, name_map) == ("p_b", "name map")
    assert match("model.layers.0.weight", names, name_map) == ("p_a", "suffix")
    assert match("p_a", names, name_map) == ("p_a", "exact")


def test_a_map_that_swaps_two_names_is_followed() -> None:
    swapped = {"a.weight": "b.weight", "b.weight": "a.weight"}
    assert match("a.weight", list(swapped), swapped) == ("b.weight", "name map")


def test_one_training_weight_that_became_two_constants_is_ambiguous() -> None:
    name_map = {"embed.weight": "tied.weight", "head.weight": "tied.weight"}
    with pytest.raises(ExportError, match=r"embed.weight, head.weight"):
        match("tied.weight", list(name_map), name_map)


def test_two_tensors_for_one_name_are_refused() -> None:
    matches = [NameMatch("a", "x", "exact"), NameMatch("b", "y", "exact")]
    refuse_shared_targets(matches, "x.pt")
    with pytest.raises(ExportError, match=r"x.pt: tensors a and c both become x"):
        refuse_shared_targets([*matches, NameMatch("c", "x", "suffix")], "x.pt")


COMPONENTS = st.lists(st.sampled_from(["a", "b", "0", "1", "weight"]), min_size=1, max_size=5)


@given(COMPONENTS.map(".".join), st.lists(COMPONENTS.map(".".join), unique=True, min_size=1))
def test_a_match_is_always_the_name_or_the_only_suffix(source: str, names: list[str]) -> None:
    def related(name: str) -> bool:
        short, long = sorted((name, source), key=len)
        return "." in short and long.endswith("." + short)

    candidates = {source} & set(names) or {name for name in names if related(name)}
    if len(candidates) > 1:
        with pytest.raises(ExportError):
            match(source, names)
    else:
        found = match(source, names)
        assert {found[0]} if found else set() == candidates
