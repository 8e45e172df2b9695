# SPDX-License-Identifier: Apache-2.0
"""The suites that ``shira bench --suite NAME`` runs in a checkout, by name."""

from __future__ import annotations

from shira_runtime.bench import Suite

from .suites_llama import llama7b
from .suites_mapped import llama1b_mapped
from .suites_micro import micro
from .suites_opening import opening
from .suites_packed import packed
from .suites_program import program
from .suites_sweep import sweep

_MAKERS = (micro, sweep, opening, llama7b, llama1b_mapped, program, packed)

#: Those whose names end in "-quick" take seconds: tiny shapes, few rounds. They show that every
#: arm runs and leaves the right bytes, and measure nothing.
SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (make(quick) for quick in (False, True) for make in _MAKERS)
}
