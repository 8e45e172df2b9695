# SPDX-License-Identifier: Apache-2.0
"""The command shira-export: a trained adapter in, a .shb file and a report out."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar

from .adapter import Progress, export_adapter
from .errors import ExportError
from .report import ExportReport
from .shapes import parse_shapes

FloatType = Literal["f32", "f16", "bf16"]
IndexChoice = Literal["auto", "gaps8", "gaps16", "rice", "runs", "struct", "random", "topk"]

_FILE_WIDTH = 200

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def export_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER",
            help="PEFT SHiRA folder or state dict, .pt of sparse deltas or of indices and deltas,"
            " or a fine-tuned checkpoint (with --base).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .shb file to write.")],
    base: Annotated[
        Path | None,
        typer.Option(
            help="What the adapter will change: a Hugging Face folder, a checkpoint, or a .pte or"
            " .ptd program. The file then holds target values and fingerprints of the base.",
        ),
    ] = None,
    dtype: Annotated[
        FloatType | None,
        typer.Option(
            help="With --base: convert its tensors first; fingerprints are then those of the"
            " converted base. Without: the type of the intended base, f32 if not given.",
        ),
    ] = None,
    values: Annotated[
        FloatType | None,
        typer.Option(help="Type of the deltas that are written without --base, f32 if not given."),
    ] = None,
    index: Annotated[
        IndexChoice, typer.Option(help="Index codec; auto takes the smallest for each tensor.")
    ] = "auto",
    scale: Annotated[
        float,
        typer.Option(help="Strength (alpha) baked into the values; PEFT does not save one."),
    ] = 1.0,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FQN=ROWSxCOLS|FILE.json",
            help="Shapes for an adapter without --base, whose file has none. Repeatable.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX=SUB",
            help="Change the checkpoint's names before they are matched. Repeatable, in order.",
        ),
    ] = None,
    max_density: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Refuse a fine-tuned checkpoint that changed a larger share."
        ),
    ] = 0.5,
    allow_skipped: Annotated[
        bool,
        typer.Option(
            "--allow-skipped",
            help="Leave out tensors that cannot be in an adapter or have no match in the base.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output if it exists.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="The adapter's name; by default the output's stem.")
    ] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", help="Licence of the adapter, for the metadata.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="A sentence for the metadata.")] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="List every tensor in the report.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON on standard output.")
    ] = False,
) -> None:
    """Turn a trained SHiRA adapter into a .shb file.

    Exit codes: 0 written, 1 an input was refused and nothing was written, 2 misuse.
    """
    words = Console(stderr=True, soft_wrap=True, highlight=False)
    with _refusals(words), _progress_bar(words) as progress:
        report = export_adapter(
            source,
            output,
            base=base,
            dtype=dtype,
            values=values,
            index=index,
            scale=scale,
            shapes=parse_shapes(shapes or ()),
            renames=[_parse_rename(argument) for argument in rename or ()],
            max_density=max_density,
            allow_skipped=allow_skipped,
            force=force,
            name=name,
            license_name=license_name,
            description=description,
            progress=progress,
        )
    _print_report(report, words, show_all, as_json)


def main() -> None:
    """Run the command; the entry point of the console script."""
    app(prog_name="shira-export")


@contextlib.contextmanager
def _refusals(words: Console) -> Iterator[None]:
    """Make exit codes of what is refused."""
    try:
        yield
    except (ExportError, OSError) as error:
        words.print(f"shira-export: {error}", markup=False, style="red")
        raise typer.Exit(1) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _print_report(report: ExportReport, words: Console, show_all: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        for note in report.notes:
            words.print(f"note: {note}", markup=False)
    else:
        # Without a terminal there is no width to fit into, and lines are easier to search.
        width = None if sys.stdout.isatty() else _FILE_WIDTH
        Console(highlight=False, width=width).print(report.render(show_all))


def _parse_rename(argument: str) -> tuple[str, str]:
    pattern, separator, replacement = argument.rpartition("=")
    if not separator or not pattern:
        raise typer.BadParameter(f"{argument!r} is not REGEX=SUB", param_hint="--rename")
    try:
        re.sub(pattern, replacement, "")
        re.compile(pattern)
    except (re.error, IndexError) as error:
        raise typer.BadParameter(f"{argument!r}: {error}", param_hint="--rename") from None
    return pattern, replacement


@contextlib.contextmanager
def _progress_bar(console: Console) -> Iterator[Progress | None]:
    """Show the tensors done, on a terminal only."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tensors {task.fields[tensor]}", markup=False),
    )
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", tensor="")
        yield lambda tensor, done, total: bar.update(
            task, completed=done, total=total, tensor=tensor
        )
