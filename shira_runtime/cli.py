# SPDX-License-Identifier: Apache-2.0
"""The command line `shira`: data goes to stdout, words to stderr.

Exit codes: 0 fine, 1 a bad file or a refusal, 2 misuse of the command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; errors are one line on stderr."""
    try:
        from shira_runtime.commands import run
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        print(
            f"error: the command line needs {error.name}: pip install 'shira-runtime[cli]'",
            file=sys.stderr,
        )
        return 1
    try:
        return run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:
        # The reader of a pipe has gone (`shira inspect x.shb | head`): nothing is left to say, and
        # the interpreter must not say so again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
