# SPDX-License-Identifier: Apache-2.0
"""Desktop side: make .shb files from trained adapters, and ExecuTorch programs from modules."""
