# SPDX-License-Identifier: Apache-2.0
"""Latency measurements: arms timed in turns, checked, and kept as records with every raw sample.

An `Arm` is one thing to time. A `Case` is a list of arms that take turns in one run, under one
or more named regimes (`shira_runtime.bench.regimes`). A `Suite` is a named series of cases.
`run_suite` gives a `RunFile`: the context of the machine and one `Record` per arm and regime.

Arms whose bytes turn out wrong raise `WrongBytes`; then nothing is written. The protocol, and why
it is as it is, stands in docs/BENCHMARKING.md.
"""

from shira_runtime.bench.record import (
    SCHEMA_VERSION,
    BenchmarkError,
    Record,
    Role,
    RunFile,
    Scalar,
)
from shira_runtime.bench.regimes import ALL_WARM, COLD_CACHE, COLD_FILE, FIRST_TOUCH, Regime
from shira_runtime.bench.timing import Arm, Case, Suite, WrongBytes, run_case, run_suite, stages_of

__all__ = [
    "ALL_WARM",
    "COLD_CACHE",
    "COLD_FILE",
    "FIRST_TOUCH",
    "SCHEMA_VERSION",
    "Arm",
    "BenchmarkError",
    "Case",
    "Record",
    "Regime",
    "Role",
    "RunFile",
    "Scalar",
    "Suite",
    "WrongBytes",
    "run_case",
    "run_suite",
    "stages_of",
]
