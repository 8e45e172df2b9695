# SPDX-License-Identifier: Apache-2.0
"""The commands of `shira`, one module each; this file joins them and maps errors to exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from shira_runtime import __version__
from shira_runtime.bench import WrongBytes
from shira_runtime.commands import (
    apply,
    bench,
    bench_compare,
    demo,
    diff,
    inspect,
    kernels,
    keygen,
    pack,
    program,
    run_program,
    sign,
    verify,
)
from shira_runtime.commands.output import Misuse, note, say
from shira_runtime.errors import ShiraError

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run one command line; see shira_runtime/cli.py for the exit codes."""
    try:
        code = _build()(
            args=list(arguments) or ["--help"], prog_name="shira", standalone_mode=False
        )
        return code if isinstance(code, int) else 0
    except Misuse as error:
        return _fail(str(error), 2)
    except BrokenPipeError:
        raise
    except WrongBytes as error:
        return _fail(f"wrong bytes: {error}", 1)
    except ShiraError as error:
        hint = "; name it with --index-from" if error.status == "MISSING_INDEX" else ""
        message = str(error).replace("allow_unverified_base", "--allow-unverified-base")
        return _fail(f"{message}{hint}", 1)
    except (ImportError, ValueError) as error:
        # What the readers of checkpoints and programs refuse is a ValueError of their own.
        return _fail(str(error) or type(error).__name__, 1)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except MemoryError:
        return _fail("out of memory", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    except Exception as error:
        # Typer's own complaints; which classes they are depends on its version.
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message(), 2)


def _build() -> typer.Typer:
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        help="Look into, check, apply and measure sparse (SHiRA) adapters.\n\nExit codes: 0 fine,"
        " 1 a bad file or a refusal, 2 misuse.",
    )
    app.callback()(_options)
    app.command("inspect")(inspect.inspect)
    app.command("verify")(verify.verify)
    app.command("diff")(diff.diff)
    app.command("pack")(pack.pack)
    app.command("apply")(apply.apply)
    app.command("run")(run_program.run_program)
    app.command("bench")(bench.bench)
    app.command("bench-compare")(bench_compare.bench_compare)
    app.command("program")(program.program)
    app.command("kernels")(kernels.kernels)
    app.command("keygen")(keygen.keygen)
    app.command("sign")(sign.sign)
    app.command(
        "demo",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(demo.demo)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"shira {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def _fail(message: str, code: int) -> int:
    note(f"error: {' '.join(message.split())}")
    return code
