# SPDX-License-Identifier: Apache-2.0
"""Find the program's name of each tensor of a checkpoint, or refuse to guess."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import ExportError

#: (pattern, replacement) for re.sub, applied in order.
Renames = Sequence[tuple[str, str]]

# Wrappers put these before every name: PEFT, DistributedDataParallel, torch.compile.
_WRAPPER_PREFIXES = ("base_model.model.", "module.", "_orig_mod.")

# A match by the last component alone ("weight") would say nothing.
_LEAST_SUFFIX_COMPONENTS = 2


@dataclass(frozen=True)
class NameMatch:
    """Which tensor of the base a name of the checkpoint means.

    `how` is "exact", "renamed", "unwrapped", "name map" or "suffix".
    """

    source: str
    target: str
    how: str


class NameMatcher:
    """Matches names against those of a base: exactly, else as the unique suffix either way.

    Args:
        base_names: names in the base (the program).
        name_map: name in the base -> name in the training checkpoint, where they differ.
        renames: applied to a checkpoint's name before anything else.
        base_label: what to call the base in messages.
    """

    def __init__(
        self,
        base_names: Collection[str],
        name_map: Mapping[str, str],
        renames: Renames,
        base_label: str,
    ) -> None:
        self._renames = renames
        self._base_label = base_label
        self._base_names = frozenset(base_names)
        # Training name -> names in the base; one training weight may be two constants there.
        self._trained: dict[str, set[str]] = defaultdict(set)
        self._by_suffix: dict[str, set[str]] = defaultdict(set)
        for name in base_names:
            trained = name_map.get(name, name)
            self._trained[trained].add(name)
            for spelling in {name, trained}:
                for suffix in _suffixes(spelling):
                    self._by_suffix[suffix].add(name)

    def match(self, source: str, where: str) -> NameMatch | None:
        """Find the base's name for a name of the checkpoint; None if there is no candidate.

        Raises:
            ExportError: several names of the base fit; the message lists them.
        """
        renamed = rename(source, self._renames)
        stripped = strip_wrappers(renamed)
        tries = (
            (self._trained.get(renamed), "renamed" if renamed != source else "exact"),
            (self._trained.get(stripped), "unwrapped"),
            ({renamed} & self._base_names, "renamed" if renamed != source else "exact"),
            ({stripped} & self._base_names, "unwrapped"),
            (self._suffix_candidates(stripped), "suffix"),
        )
        candidates, how = next(((found, how) for found, how in tries if found), (set(), ""))
        if not candidates:
            return None
        if len(candidates) > 1:
            shown = ", ".join(sorted(candidates)[:4]) + (", ..." if len(candidates) > 4 else "")
            raise ExportError(
                f"{where}: {len(candidates)} tensors of {self._base_label} fit this name ({shown});"
                " choose with --rename REGEX=SUB"
            )
        (target,) = candidates
        is_mapped = how != "suffix" and target not in (renamed, stripped)
        return NameMatch(source, target, "name map" if is_mapped else how)

    def _suffix_candidates(self, name: str) -> set[str]:
        """Names of the base that end with this name, or that this name ends with."""
        candidates = set(self._by_suffix.get(name, ()))
        for suffix in _suffixes(name):
            candidates |= self._trained.get(suffix, set())
            if suffix in self._base_names:
                candidates.add(suffix)
        return candidates


def rename(name: str, renames: Renames) -> str:
    """Apply each (pattern, replacement) to the name, in order."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def strip_wrappers(name: str) -> str:
    """Take off the prefixes that training wrappers put before a module's own names."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _WRAPPER_PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def refuse_shared_targets(matches: Iterable[NameMatch], where: str) -> None:
    """Refuse two tensors of a checkpoint that would be written to one tensor of the base."""
    sources: dict[str, str] = {}
    for match in matches:
        other = sources.setdefault(match.target, match.source)
        if other != match.source:
            raise ExportError(
                f"{where}: tensors {other} and {match.source} both become {match.target}"
            )


def _suffixes(name: str) -> list[str]:
    """The name and its endings of at least two components."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(max(1, len(parts) - _LEAST_SUFFIX_COMPONENTS + 1))]
