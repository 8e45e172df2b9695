# SPDX-License-Identifier: Apache-2.0
"""The one record type of all measurements, and the JSON file that keeps a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

__all__ = ["SCHEMA_VERSION", "BenchmarkError", "Key", "Record", "Role", "RunFile", "Scalar"]

SCHEMA_VERSION = 2
"""Of the JSON; grows when a field changes its meaning or goes away."""

Scalar = str | int | float | bool
Role = Literal["shira", "baseline", "roofline", "forward"]
"""What an arm is for: this project, what it is compared with, a limit of the machine, or a
forward pass of the model."""

Key = tuple[str, tuple[tuple[str, Scalar], ...], str, str, int]


class BenchmarkError(ValueError):
    """A measurement or a stored run that cannot be used as asked."""


@dataclass(frozen=True)
class Record:
    """All samples of one arm in one case and regime.

    Attributes:
        suite: name of the series of cases.
        case: what is measured on, as scalars: shape or model, dtype, mask, density and so on.
        arm: what was run, in words that tables print.
        role: what the arm is for.
        regime: state of files, memory and caches before each sample; see `regimes`.
        threads: threads that the arm was allowed to use.
        samples: one per round, in the order taken, in `unit`.
        stages: parts of the samples by name, in `unit`; each as long as `samples`.
        counts: sizes that explain the time: entries, lines, pages, bytes, parameters, rank, ...
        notes: what a reader has to know, such as a regime that could not be produced.
        clock: "wall", or "thread" for processor time of one thread.
        unit: of samples and stages; always "ns".
    """

    suite: str
    case: Mapping[str, Scalar]
    arm: str
    role: Role
    regime: str
    threads: int
    samples: tuple[int, ...]
    stages: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    counts: Mapping[str, int | float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    clock: Literal["wall", "thread"] = "wall"
    unit: Literal["ns"] = "ns"

    def __post_init__(self) -> None:
        if not self.samples:
            raise BenchmarkError(f"arm {self.arm!r} has no samples")
        if self.role not in get_args(Role):
            raise BenchmarkError(f"arm {self.arm!r} has the unknown role {self.role!r}")
        if self.unit != "ns":
            raise BenchmarkError(f"arm {self.arm!r} is in {self.unit!r}, expected ns")
        for name, samples in self.stages.items():
            if len(samples) != len(self.samples):
                raise BenchmarkError(
                    f"stage {name!r} of arm {self.arm!r} has {len(samples)} samples,"
                    f" expected {len(self.samples)}"
                )

    @property
    def key(self) -> Key:
        """What identifies the record in its file, and the same measurement in another file."""
        return self.suite, tuple(sorted(self.case.items())), self.arm, self.regime, self.threads

    def to_json(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Record:
        """Read what `to_json` gave.

        Raises:
            BenchmarkError: a field is missing, unknown or of another kind.
        """
        try:
            return cls(
                **{
                    **value,
                    "samples": tuple(value["samples"]),
                    "stages": {name: tuple(stage) for name, stage in value["stages"].items()},
                    "notes": tuple(value["notes"]),
                }
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise BenchmarkError(f"malformed record: {error}") from None


@dataclass(frozen=True)
class RunFile:
    """One run: where and how it was taken, and its records.

    Attributes:
        context: the machine, the build and the settings; see `context.machine_context`.
        records: no two with one key.
    """

    context: Mapping[str, Any]
    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        self.by_key()

    def by_key(self) -> dict[Key, Record]:
        """The records by what identifies them.

        Raises:
            BenchmarkError: two have one key.
        """
        found: dict[Key, Record] = {}
        for record in self.records:
            if found.setdefault(record.key, record) is not record:
                raise BenchmarkError(f"two records of {describe(record.key)}")
        return found

    def to_json(self) -> dict[str, Any]:
        """The whole file, for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "context": dict(self.context),
            "records": [record.to_json() for record in self.records],
        }

    def dumps(self) -> str:
        """JSON text with one line per record, so that stored runs can be read and compared."""
        document = self.to_json()
        records = ",\n".join("  " + _line(record) for record in document["records"])
        context = ",\n".join(
            f"  {json.dumps(name)}: {_line(value)}" for name, value in document["context"].items()
        )
        return (
            f'{{\n "schema_version": {SCHEMA_VERSION},\n'
            f' "context": {{\n{context}\n }},\n "records": [\n{records}\n ]\n}}\n'
        )

    def write(self, path: Path) -> None:
        """Write the file, making its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.dumps())

    @classmethod
    def from_json(cls, document: Any, label: str = "run") -> RunFile:
        """Read what `to_json` gave; `label` names it in errors.

        Raises:
            BenchmarkError: another schema version, or a malformed file.
        """
        if not isinstance(document, dict) or "schema_version" not in document:
            raise BenchmarkError(f"{label}: is no file of measurements: it has no schema_version")
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise BenchmarkError(
                f"{label}: has schema version {version}, expected {SCHEMA_VERSION}"
            )
        try:
            records = tuple(Record.from_json(record) for record in document["records"])
            return cls(context=document["context"], records=records)
        except BenchmarkError as error:
            raise BenchmarkError(f"{label}: {error}") from None
        except (KeyError, TypeError) as error:
            raise BenchmarkError(f"{label}: malformed file of measurements: {error}") from None

    @classmethod
    def read(cls, path: Path) -> RunFile:
        """Read a file.

        Raises:
            BenchmarkError: see `from_json`; or it is no JSON.
            OSError: it cannot be read.
        """
        try:
            document = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise BenchmarkError(f"{path}: is no JSON") from None
        return cls.from_json(document, str(path))

    @classmethod
    def joined(cls, runs: Iterable[RunFile]) -> RunFile:
        """The records of several runs taken in one context, which is that of the first."""
        runs = list(runs)
        return cls(runs[0].context, tuple(record for run in runs for record in run.records))


def describe(key: Key) -> str:
    """A key in words, for messages."""
    suite, case, arm, regime, threads = key
    words = ", ".join(f"{name}={value}" for name, value in case)
    return f"{suite} [{words}] {arm!r}, {regime}, {threads} threads"


def _line(value: Any) -> str:
    return json.dumps(value, separators=(", ", ": "), ensure_ascii=True)
