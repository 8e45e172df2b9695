# SPDX-License-Identifier: Apache-2.0
"""The suites that ``shira bench --suite NAME`` runs in a checkout, by name."""

from __future__ import annotations

from shira_runtime.bench import Suite

from .suites_llama import llama7b
from .suites_micro import micro
from .suites_sweep import sweep

_ALL: list[Suite] = [suite(quick) for quick in (False, True) for suite in (micro, sweep, llama7b)]

#: Those whose names end in "-quick" take seconds: tiny shapes, few rounds. They show that every
#: arm runs and leaves the right bytes, and measure nothing.
SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}
