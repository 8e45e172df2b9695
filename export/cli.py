# SPDX-License-Identifier: Apache-2.0
"""The command shira-export: a trained adapter in, a .shb file and a report out."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar

from .adapter import export_adapter
from .collect import Progress
from .cut import CutReport, cut_adapter
from .encode_values import DEFAULT_GROUP
from .errors import ExportError
from .metadata import package_version
from .report import ExportReport
from .report_tables import printable, report_table, size_tables
from .shapes import parse_shapes
from .tiers import parse_shares
from .writer import MAGIC

FloatType = Literal["f32", "f16", "bf16"]
ValueChoice = Literal["target", "f32", "f16", "bf16", "int8", "int4", "int2", "int1"]
IndexChoice = Literal["auto", "gaps8", "gaps16", "rice", "runs", "struct", "random", "topk"]

_FILE_WIDTH = 200
_CUT_OPTIONS = ("source", "output", "tiers", "index_from", "force", "as_json")
_SIZE, _NAMES, _OUTPUT = "Size", "Names and shapes", "Output and report"

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shira-export {package_version()}")
        raise typer.Exit


@app.command()
def export_command(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER",
            help="PEFT SHiRA folder or state dict, .pt of sparse deltas or of indices and deltas,"
            " a fine-tuned checkpoint (with --base), or a .shb file to cut (with --tiers).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .shb file to write.")],
    base: Annotated[
        Path | None,
        typer.Option(
            help="What the adapter will change: a Hugging Face folder, a checkpoint, or a .pte or"
            " .ptd program. The file then holds fingerprints of the base. For a program's quantized"
            " weights it holds integer codes, the nearest to the trained weights.",
        ),
    ] = None,
    base_data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DATA.ptd",
            help="A .ptd in which a .pte given as --base keeps weights. Repeatable.",
        ),
    ] = None,
    trained_on: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="The float model that training began with, for a quantized --base: its weights"
            " become what quantizing the trained model with the base's scales would make of them."
            " Without it, deltas count from the base's own weights.",
        ),
    ] = None,
    dtype: Annotated[
        FloatType | None,
        typer.Option(
            help="With --base: convert its tensors first; fingerprints are then those of the"
            " converted base. Without: the type of the intended base, f32 if not given.",
        ),
    ] = None,
    scale: Annotated[
        float,
        typer.Option(help="Strength (alpha) baked into the values; PEFT does not save one."),
    ] = 1.0,
    values: Annotated[
        ValueChoice | None,
        typer.Option(
            rich_help_panel=_SIZE,
            metavar="CODEC",
            help="target, f32, f16, bf16, int8, int4, int2 or int1. target is the finished weights"
            " in the base's type, exact bit for bit, and the default with --base. The others are"
            " deltas, which can be smaller and revert as exactly: f32 (the default without) as they"
            " are, f16 and bf16 rounded, int8 to int1 in 8 to 1 bits with a scale per --group."
            " --explain-size shows what each costs and how far off it is.",
        ),
    ] = None,
    group: Annotated[
        int,
        typer.Option(
            rich_help_panel=_SIZE,
            help="Entries per scale of int8 to int1: a multiple of 8, at least 64. Smaller groups"
            " err less and take 2 bytes each.",
        ),
    ] = DEFAULT_GROUP,
    index: Annotated[
        IndexChoice,
        typer.Option(
            rich_help_panel=_SIZE,
            metavar="CODEC",
            help="Coding of positions: gaps8, gaps16, rice or runs; struct, random or topk, which"
            " store a rule if the mask was shown to follow it; or auto, the smallest for each"
            " tensor.",
        ),
    ] = "auto",
    index_from: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_SIZE,
            metavar="OTHER.shb",
            help="Store no positions but refer to those of this file, which has the same masks.",
        ),
    ] = None,
    mask_seed: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_SIZE,
            help="The random_seed that seeded_random_mask was given; by default that of PEFT's"
            " configuration.",
        ),
    ] = None,
    tiers: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_SIZE,
            metavar="SHARES|N",
            help="Put the entries of the largest deltas first: 0.25,0.5,1 makes three tiers, the"
            " first with a quarter of all entries. For a .shb file: keep its first N tiers.",
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_SIZE,
            help="Keep so many entries, as a share of the weights in all tensors: those of the"
            " largest deltas. 0.01 is 1 %.",
        ),
    ] = None,
    grid_aware: Annotated[
        bool,
        typer.Option(
            "--grid-aware",
            rich_help_panel=_SIZE,
            help="With --density and a quantized --base: keep the entries that take most off the"
            " squared error against the trained weights, once they are rounded to codes. The source"
            " should hold more entries than are kept, such as a fine-tuned checkpoint.",
        ),
    ] = False,
    keep_mask: Annotated[
        bool,
        typer.Option(
            "--keep-mask",
            rich_help_panel=_SIZE,
            help="Keep entries that change no integer code of a quantized --base, so that adapters"
            " of one mask can share its positions. Else they go where that makes the file smaller.",
        ),
    ] = False,
    budget_kib: Annotated[
        float | None,
        typer.Option(
            min=0,
            rich_help_panel=_SIZE,
            help="Largest file. Chooses f16, int8, int4, int2 or int1 for each tensor so that the"
            " squared error of all deltas is least.",
        ),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_NAMES,
            metavar="FQN=ROWSxCOLS|FILE.json",
            help="Shapes for an adapter without --base, whose file has none. Repeatable.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_NAMES,
            metavar="REGEX=SUB",
            help="Change the checkpoint's names before they are matched. Repeatable, in order.",
        ),
    ] = None,
    max_density: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=_NAMES,
            help="Refuse a fine-tuned checkpoint that changed a larger share.",
        ),
    ] = 0.5,
    allow_skipped: Annotated[
        bool,
        typer.Option(
            "--allow-skipped",
            rich_help_panel=_NAMES,
            help="Leave out tensors that cannot be in an adapter or have no match in the base.",
        ),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_OUTPUT, help="The adapter's name; by default the output's stem."
        ),
    ] = None,
    license_name: Annotated[
        str | None,
        typer.Option(
            "--license", rich_help_panel=_OUTPUT, help="Licence of the adapter, for the metadata."
        ),
    ] = None,
    description: Annotated[
        str | None, typer.Option(rich_help_panel=_OUTPUT, help="A sentence for the metadata.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", rich_help_panel=_OUTPUT, help="Replace the output if it exists."),
    ] = False,
    explain_size: Annotated[
        bool,
        typer.Option(
            "--explain-size",
            rich_help_panel=_OUTPUT,
            help="Report what every coding of positions and values would take.",
        ),
    ] = False,
    show_all: Annotated[
        bool,
        typer.Option("--all", rich_help_panel=_OUTPUT, help="List every tensor in the report."),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", rich_help_panel=_OUTPUT, help="Print the report as JSON on standard output."
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Turn a trained SHiRA adapter into a .shb file, or cut one down to its first tiers.

    Exit codes: 0 written, 1 an input was refused and nothing was written, 2 misuse.
    """
    words = _words()
    with _refusals(words), _progress_bar(words) as progress:
        if _is_shb(source):
            _refuse_other_options(context)
            tier_count = _tier_count(tiers)
            cut_report = cut_adapter(source, output, tier_count, index_from=index_from, force=force)
            _print_cut(cut_report, words, as_json)
            return
        report = export_adapter(
            source,
            output,
            base=base,
            base_data=base_data or (),
            trained_on=trained_on,
            dtype=dtype,
            values=values,
            group=group,
            index=index,
            index_from=index_from,
            mask_seed=mask_seed,
            tiers=(1.0,) if tiers is None else parse_shares(tiers),
            budget_bytes=_budget_bytes(budget_kib),
            scale=scale,
            density=density,
            grid_aware=grid_aware,
            keep_mask=keep_mask,
            shapes=parse_shapes(shapes or ()),
            renames=[_parse_rename(argument) for argument in rename or ()],
            max_density=max_density,
            allow_skipped=allow_skipped,
            force=force,
            name=name,
            license_name=license_name,
            description=description,
            explain_size=explain_size,
            progress=progress,
        )
    _print_report(report, words, show_all, as_json, explain_size)


def main() -> None:
    """Run the command; the entry point of the console script."""
    words = _words()
    try:
        code = app(prog_name="shira-export", standalone_mode=False)
    except Exception as error:
        # Typer's own complaints; which classes they are depends on its version.
        if not hasattr(error, "format_message"):
            raise
        _print_error(error.format_message(), words)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _refusals(words: Console) -> Iterator[None]:
    """Make exit codes of what is refused."""
    try:
        yield
    except ExportError as error:
        _print_error(str(error), words)
        raise typer.Exit(1) from None
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _print_error(message, words)
        raise typer.Exit(1) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _print_report(
    report: ExportReport, words: Console, show_all: bool, as_json: bool, explain_size: bool
) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        _print_notes(report.notes, words)
        return
    console = _output_console()
    console.print(report_table(report, show_all))
    if explain_size:
        console.print(size_tables(report, show_all))


def _print_cut(report: CutReport, words: Console, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        _print_notes(report.notes, words)
    else:
        for line in report.lines():
            _output_console().print(printable(line), markup=False)


def _print_notes(notes: Iterable[str], words: Console) -> None:
    for note in notes:
        words.print(printable(f"note: {note}"), markup=False)


def _print_error(message: str, words: Console) -> None:
    line = printable(" ".join(message.split()))
    words.print(f"shira-export: {line}", markup=False, style="red")


def _words() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def _output_console() -> Console:
    # Without a terminal there is no width to fit into, and lines are easier to search.
    return Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)


def _is_shb(source: Path) -> bool:
    if not source.is_file():
        return False
    with source.open("rb") as stream:
        return stream.read(4) == MAGIC[:4]


def _budget_bytes(budget_kib: float | None) -> int | None:
    if budget_kib is None:
        return None
    if not math.isfinite(budget_kib):
        raise typer.BadParameter(f"{budget_kib} is not a finite number", param_hint="--budget-kib")
    return int(budget_kib * 1024)


def _tier_count(tiers: str | None) -> int:
    if tiers is None or not tiers.isdecimal():
        raise typer.BadParameter(
            "a .shb file is cut to its first tiers: give their number", param_hint="--tiers"
        )
    return int(tiers)


def _refuse_other_options(context: typer.Context) -> None:
    """Refuse what has no meaning when a finished file is cut."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name not in _CUT_OPTIONS and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter("is not for cutting a .shb file", param_hint=parameter.opts[0])


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
            task, completed=done, total=total, tensor=printable(tensor)
        )
