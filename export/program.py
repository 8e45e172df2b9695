# SPDX-License-Identifier: Apache-2.0
"""Exports a PyTorch module to an ExecuTorch program whose weights can be switched in place.

ExecuTorch's defaults make a program that adapters cannot reach: linear layers become a copy and a
matrix product, constants inside a .pte have no names, and constants of equal content share one
storage. `export_program` preserves linear, names every constant after the module's parameter or
buffer, and then reads the files that it wrote to check what a switch relies on: each parameter is
there under its name, row-major, with the module's bytes, in bytes of its own.

Importing this file imports torch and executorch; nothing else in the package does so for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import ExportError
from .lower import EXTERNAL_TAG, Backend, lower
from .output import check_output, write_output
from .program_checks import (
    check_layout,
    check_name_map,
    check_packed,
    missing_parameters,
    named_tensors,
    shared_groups,
)
from .program_file import ProgramTensor, read_program_tensors
from .program_weights import read_packed_names
from .quantize import (
    DEFAULT_GROUP_SIZE,
    EmbeddingBits,
    Quantize,
    name_folded_weights,
    quantize_module,
)

__all__ = [
    "Backend",
    "EmbeddingBits",
    "ProgramReport",
    "Quantize",
    "export_program",
    "program_command",
]

# What computes with integer activations; only XNNPACK has operators for it.
_DELEGATED_ONLY = ("8da8w", "8da4w", "8da4w-channel")


@dataclass(frozen=True)
class ProgramReport:
    """What was written, and which tensors an adapter can reach.

    Attributes:
        program_path: the .pte.
        data_path: the .ptd with the weights, or None if they lie in the .pte.
        backend: "portable" or "xnnpack".
        tensors: name -> place of each named constant, in either file.
        delegated: parameters and buffers that the delegate has consumed. Adapters reach those of
            them that are in `packed`.
        packed: weights of linear layers that the delegate packs: name -> key of their bytes in the
            program's named data.
        packed_biases: the same of the biases that it packs beside them.
        unused: parameters that no output depends on; they are not in the program.
        missing: parameters that are used and yet not in the program, or not with the module's
            bytes (empty unless allow_missing).
        shared: groups of names with one storage: a write to one changes the others. A constant
            that is not the module's, such as the 2 in 2 * x, appears as "#" and a number.
        name_map: program name -> training name, as stored in the program.
        export_seconds: wall time of the whole export, checks included.
    """

    program_path: Path
    data_path: Path | None
    backend: Backend
    tensors: dict[str, ProgramTensor]
    delegated: tuple[str, ...]
    packed: dict[str, str]
    packed_biases: dict[str, str]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...]
    name_map: dict[str, str]
    export_seconds: float

    def to_json(self) -> str:
        """The report as a JSON object; paths are strings."""
        return json.dumps(asdict(self), default=str, indent=2)


def export_program(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    output: str | Path,
    *,
    data_path: str | Path | None = None,
    backend: Backend = "portable",
    quantize: Quantize | None = None,
    group_size: int = DEFAULT_GROUP_SIZE,
    embedding_bits: EmbeddingBits | None = None,
    dynamic_shapes: Any = None,
    name_map: Mapping[str, str] | None = None,
    allow_shared: bool = False,
    allow_missing: bool = False,
    force: bool = False,
) -> ProgramReport:
    """Export `module` so that adapters can be switched in the program's live weights.

    Equal contents share one storage in ExecuTorch, whether the parameters are tied or merely equal.
    Such a group is an error if it has a floating-point parameter with two or more dimensions: those
    are what adapters are trained on, and a write to one would silently change the others. Other
    groups (zero biases, unit norms, equal integer buffers) are common and harmless until an adapter
    touches one of them; they are listed in `ProgramReport.shared`.

    Args:
        module: in eval mode; its `forward` is exported.
        example_inputs: positional arguments for one call of `forward`.
        output: the .pte to write.
        data_path: a .ptd for the weights; by default they are stored in the .pte itself.
        backend: "portable" leaves all weights where an adapter reaches them; "xnnpack" delegates
            what it can, which is faster. The weights of linear layers that it packs are named in
            the program, and can be switched where our own engine loads it.
        quantize: what becomes of linear layers: "8da8w", "8da4w" or "8da4w-channel" for XNNPACK,
            "8w" for the portable operator; see `quantize_module`. A module that torchao has
            quantized already is taken as it is; the codes of a graph from `convert_pt2e` get the
            names of the weights that they were made of.
        group_size: columns that share a scale in "8da4w".
        embedding_bits: 8 or 4 for embeddings of integer codes, which portable operators look up.
        dynamic_shapes: passed to torch.export.export.
        name_map: name in this module -> name in the training checkpoint, where they differ.
        allow_shared: list every group with one storage instead of refusing.
        allow_missing: list parameters that the program lost or changed instead of refusing.
        force: replace existing files.

    Returns:
        The report. Each file appears complete or not at all.

    Raises:
        ExportError: a request that makes no sense, a file that is there already (without force), or
            a program that fails a check; nothing has been written.
    """
    started = time.perf_counter()
    output = _new_file(output, ".pte", force)
    data_path = None if data_path is None else _new_file(data_path, ".ptd", force)
    if backend not in ("portable", "xnnpack"):
        raise ExportError(f"unknown backend {backend!r}, expected portable or xnnpack")
    # The graphs that quantizers make have no modes, and say that they are in training.
    if module.training and not isinstance(module, torch.fx.GraphModule):
        raise ExportError("the module is in training mode; call .eval() before the export")
    if quantize in _DELEGATED_ONLY and backend != "xnnpack":
        raise ExportError(f"{quantize} computes in integers, for which only xnnpack has operators")
    if isinstance(module, torch.fx.GraphModule):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            module = name_folded_weights(module)
    original, names = module, dict(name_map or {})
    check_name_map(module, names)
    if quantize is not None or embedding_bits is not None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch and torchao, about each other
            module = quantize_module(
                module,
                example_inputs,
                quantize,
                group_size=group_size,
                embedding_bits=embedding_bits,
                dynamic_shapes=dynamic_shapes,
            )

    with tempfile.TemporaryDirectory(prefix="shira-program-") as folder:
        written = Path(folder, "program.pte")
        lowered = lower(
            module, example_inputs, written, backend, dynamic_shapes, names, data_path is not None
        )
        tensors = _placed(written, output)
        written_data = Path(folder, f"{EXTERNAL_TAG}.ptd")
        if data_path is not None:
            if not written_data.exists():
                raise ExportError(f"no constant is left for {data_path}")
            tensors |= _placed(written_data, data_path)
        check_layout(tensors)
        check_packed(written, lowered.packed)
        listed = {weight.name for weight in lowered.packed}
        packed_names = read_packed_names(written).items()
        packings = {name: packed_name for name, packed_name in packed_names if name in listed}
        shared = shared_groups(module, original, tensors, packings, allow_shared)
        # Constants that the compiler made, such as the 2 in 2 * x, count only where they share.
        known = {name for name, _ in named_tensors(module)}
        tensors = {name: tensor for name, tensor in tensors.items() if name in known}
        missing = missing_parameters(
            module,
            tensors,
            {output: written, data_path: written_data},
            {*lowered.delegated, *lowered.unused},
            shared,
        )
        if missing and not allow_missing:
            raise ExportError(
                "the program has lost, renamed or changed these parameters, so no adapter could"
                f" reach them: {', '.join(missing)} (allow_missing lists them instead)"
            )
        if data_path is not None:
            write_output(data_path, written_data.read_bytes(), force)
        write_output(output, written.read_bytes(), force)
    return ProgramReport(
        output,
        data_path,
        backend,
        tensors,
        lowered.delegated,
        {weight.name: weight.key for weight in lowered.packed},
        {weight.bias: weight.bias_key or "" for weight in lowered.packed if weight.bias},
        lowered.unused,
        missing,
        shared,
        names,
        time.perf_counter() - started,
    )


def program_command(
    factory: str,
    output: str | Path,
    *,
    data_path: str | Path | None = None,
    backend: Backend = "portable",
    quantize: Quantize | None = None,
    group_size: int = DEFAULT_GROUP_SIZE,
    embedding_bits: EmbeddingBits | None = None,
    rename: Sequence[str] = (),
    allow_shared: bool = False,
    allow_missing: bool = False,
    force: bool = False,
) -> ProgramReport:
    """Export what a function of the user's returns: the body of `shira program`.

    Args:
        factory: "package.module:function" or "path/to/file.py:function", found as if Python ran in
            the current folder. Called without arguments, it returns (module, example_inputs) or
            (module, example_inputs, dynamic_shapes).
        output: the .pte to write.
        data_path: a .ptd for the weights.
        backend: "portable" or "xnnpack".
        quantize: see export_program.
        group_size: see export_program.
        embedding_bits: see export_program.
        rename: REGEX=SUB rules, applied in turn to each of the module's names to give its name in
            the training checkpoint; the outcome is stored in the program as its name map.
        allow_shared: see export_program.
        allow_missing: see export_program.
        force: replace existing files.

    Raises:
        ExportError: the factory cannot be found or returns something else; and as
            export_program. What the factory itself raises passes through.
    """
    made = _load_factory(factory)()
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], nn.Module):
        raise ExportError(
            f"{factory} must return (module, example_inputs) or"
            f" (module, example_inputs, dynamic_shapes), not {type(made).__name__}"
        )
    module, example_inputs, *rest = made
    if not isinstance(example_inputs, tuple):
        raise ExportError(
            f"{factory}: example_inputs must be a tuple, not {type(example_inputs).__name__}"
        )
    return export_program(
        module,
        example_inputs,
        output,
        data_path=data_path,
        backend=backend,
        quantize=quantize,
        group_size=group_size,
        embedding_bits=embedding_bits,
        dynamic_shapes=rest[0] if rest else None,
        name_map=_renamed(module, rename),
        allow_shared=allow_shared,
        allow_missing=allow_missing,
        force=force,
    )


def _placed(written: Path, final: Path) -> dict[str, ProgramTensor]:
    found = read_program_tensors(written, include_unnamed=True)
    return {name: replace(tensor, file=final) for name, tensor in found.items()}


def _new_file(path: str | Path, suffix: str, force: bool) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise ExportError(f"{path}: expected a file name that ends in {suffix}")
    check_output(path, force)
    return path


def _load_factory(factory: str) -> Callable[[], Any]:
    place, _, attribute = factory.rpartition(":")
    if str(Path.cwd()) not in sys.path:  # a console script does not look there by itself
        sys.path.insert(0, str(Path.cwd()))
    if not place or not attribute:
        raise ExportError(f"{factory!r}: expected package.module:function or file.py:function")
    if place.endswith(".py"):
        path = Path(place).resolve()
        if not path.is_file():
            raise ExportError(f"{place}: no such file")
        specification = importlib.util.spec_from_file_location(path.stem, path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise ExportError(f"{factory}: {error}") from None
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ExportError(f"{place} has no function {attribute}")
    return function  # type: ignore[no-any-return]


def _renamed(module: nn.Module, rules: Sequence[str]) -> dict[str, str]:
    name_map = {}
    for name, _ in module.named_parameters(remove_duplicate=False):
        renamed = name
        for rule in rules:
            pattern, separator, replacement = rule.partition("=")
            if not separator:
                raise ExportError(f"{rule!r}: expected REGEX=SUB")
            try:
                renamed = re.sub(pattern, replacement, renamed)
            except re.error as error:
                raise ExportError(f"{rule!r}: {error}") from None
        if renamed != name:
            name_map[name] = renamed
    return name_map
