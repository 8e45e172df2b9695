# SPDX-License-Identifier: Apache-2.0
"""Names of suites, arms and masks that the table of targets looks for in records.

Arms that no target asks about may have any name. Names of LoRA arms end with what they were given:
`EQUAL_PARAMETERS`, or a rank.
"""

from __future__ import annotations

# --- Suites: the names in benchmarks.suites.SUITES.
TENSOR = "tensor"
"""One weight in memory (4096 x 4096 unless the case says otherwise): every mask, density, dtype."""
LORA = "lora"
"""The exchange of adapter A for B on one weight, beside LoRA and others' scatters."""
MODELS = "models"
"""All target weights of a real model, by its shapes."""
LLAMA2 = "llama2-7b"
"""LLaMA2-7B's shapes, f16: from a warm file to weights that are ready."""
MAPPED = "mapped"
"""Llama-3.2-1B's shapes in a .ptd, attached by copy-on-write."""
FIRST_SWITCH = "first-switch"
"""The first switch on a copy-on-write mapping, beside copies into fresh and resident pages."""
FORWARD = "forward"
"""Forward passes: base, after a switch, unfused LoRA, delegated base."""

# --- Values of the case fields "mask" and "dtype" ("f32", "f16", "bf16").
RANDOM = "random"
RUNS = "runs"  # aligned blocks of 16 entries in a row
ROWS = "rows"  # whole rows
PAGES = "pages"  # whole 4 KiB pages

# --- Arms of this project (role "shira").
OVERWRITE = "overwrite"  # base -> A, originals held already
FIRST_OVERWRITE = "first overwrite, saving originals"
REVERT = "revert"
EXCHANGE = "A -> B"  # distinct masks
EXCHANGE_SHARED = "A -> B, shared positions"
REVERT_THEN_APPLY = "A -> base -> B"
FILE_TO_READY = "file to ready"  # open, check, fingerprints, originals, stores
FIRST_SWITCH_POPULATE = "first switch, pages populated"
FIRST_SWITCH_HUGE = "first switch, huge pages"

# --- Rooflines.
TOUCH = "touch of each line"  # read-modify-write of an element per distinct line, best prefetch
TOUCH_UNION = "touch of each line of A and B"
COPY_TOUCHED = "memcpy of the touched bytes"
COPY_FRESH = "memcpy into fresh pages"
COPY_RESIDENT = "memcpy into resident pages"
STREAM = "STREAM copy"
STREAM_WEIGHTS = "read of all weights"

# --- Baselines; LoRA names are completed by the rank: f"{TORCH_ADDMM}, {EQUAL_PARAMETERS}".
EQUAL_PARAMETERS = "equal parameters"
PEFT_LORA = "PEFT LoRA unmerge + merge"
TORCH_ADDMM = "torch addmm_ unfuse + fuse"
TORCH_MATMUL = "torch W += B@A unfuse + fuse"
EIGEN_LORA = "C++ LoRA (Eigen) unfuse + fuse"
PEFT_SHIRA = "PEFT SHiRA unmerge + merge"
TORCH_SCATTER = "torch scatter_"
TORCH_INDEX_COPY = "torch index_copy_"

# --- Forward passes (role "forward").
FORWARD_BASE = "base"
FORWARD_SWITCHED = "after a switch"
FORWARD_UNFUSED_LORA = "unfused LoRA"
FORWARD_DELEGATED = "base, delegated to XNNPACK"
