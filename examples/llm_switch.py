# SPDX-License-Identifier: Apache-2.0
"""A language model on a live program, adapters switched in it: python examples/llm_switch.py.

Needs a checkout with ``make setup`` done; `smollm2/demo.py` has what it does, step by step.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.smollm2 import demo

if __name__ == "__main__":
    raise SystemExit(demo.main())
