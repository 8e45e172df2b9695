# SPDX-License-Identifier: Apache-2.0
"""The one exception that exporting raises about what it was given."""

from __future__ import annotations


class ExportError(ValueError):
    """An input was refused; the message names the file and the tensor, and nothing was written."""
