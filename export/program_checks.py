# SPDX-License-Identifier: Apache-2.0
"""What must hold of a written program for adapters to be switched in it, checked in its files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import ExportError
from .program_file import (
    PackedWeight,
    ProgramTensor,
    read_named_data,
    read_packed_keys,
    read_packed_weights,
    shared_storage,
)


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer under each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def check_layout(tensors: Mapping[str, ProgramTensor]) -> None:
    """Refuse tensors whose elements are in another order than row-major.

    Raises:
        ExportError: it names each of them.
    """
    permuted = [tensor for tensor in tensors.values() if not tensor.is_contiguous]
    if permuted:
        listed = ", ".join(f"{tensor.name} {tensor.dim_order}" for tensor in permuted)
        raise ExportError(
            "these tensors are not row-major in the program, so an adapter's flat indices would"
            f" address other elements: {listed}; call"
            " module.to(memory_format=torch.contiguous_format) before the export"
        )


def check_packed(program_path: Path, packed: Sequence[PackedWeight]) -> None:
    """Refuse a program that does not name, under the right key, the bytes of what is packed.

    Args:
        program_path: the .pte as written.
        packed: weights and biases, each with the SHA-256 of its bytes as XNNPACK stores them.

    Raises:
        ExportError: the names or the bytes differ.
    """
    if read_packed_weights(program_path) != list(packed):
        raise ExportError("the program does not list the weights that its delegate packs")
    places = read_named_data(program_path)
    with program_path.open("rb") as stream:
        for name, key in read_packed_keys(program_path).items():
            start, end = places.get(key, (0, 0))
            stream.seek(start)
            if hashlib.sha256(stream.read(end - start)).hexdigest() != key:
                raise ExportError(f"the program has lost or changed the bytes of {name}")


def shared_groups(
    module: nn.Module,
    original: nn.Module,
    tensors: Mapping[str, ProgramTensor],
    packed: Mapping[str, str],
    allow_shared: bool,
) -> tuple[tuple[str, ...], ...]:
    """Groups of names with one storage: in the written files, or tied in the module.

    Args:
        module: that was exported.
        original: what it was before it was quantized, which unties the weights of linear layers.
        tensors: found in the files, those without a name included.
        packed: name -> what the delegate calls its packing, of the weights that one packs: those of
            one name are packed once.
        allow_shared: give groups with trained parameters as well, instead of refusing.

    Raises:
        ExportError: a group has a floating-point parameter of two or more dimensions.
    """
    aliases: dict[Tensor, list[str]] = defaultdict(list)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        aliases[parameter].append(name)
    tied = {name: set(group) for group in aliases.values() for name in group}
    groups = [set(group) for group in shared_storage(tensors.values())]
    for group in groups:
        for name in tuple(group):
            group |= tied.get(name, set())
    in_file = set().union(*groups) if groups else set()
    groups += [set(g) for g in aliases.values() if len(g) > 1 and not in_file.intersection(g)]
    by_packing: dict[str | Tensor, set[str]] = defaultdict(set)
    for name, packed_name in packed.items():
        by_packing[packed_name].add(name)
    for name, parameter in original.named_parameters(remove_duplicate=False):
        if name in packed:
            by_packing[parameter].add(name)
    for group in by_packing.values():
        if len(group) > 1 and group not in groups:
            groups.append(group)
    known = {name for name, _ in named_tensors(module)}
    shared = tuple(sorted(tuple(sorted(group)) for group in groups if group & known))

    def is_trained(name: str) -> bool:
        if name in packed:
            return True
        parameter = parameters.get(name)
        return parameter is not None and parameter.is_floating_point() and parameter.dim() >= 2

    refused = [group for group in shared if any(is_trained(name) for name in group)]
    if refused and not allow_shared:
        raise ExportError(
            "ExecuTorch stores equal contents once, so a write to one of these tensors would change"
            f" the others: {'; '.join(' = '.join(group) for group in refused)}"
            " (allow_shared lists them instead; do that only if no adapter touches them)"
        )
    return shared


def missing_parameters(
    module: nn.Module,
    tensors: Mapping[str, ProgramTensor],
    written: Mapping[Path | None, Path],
    excused: Iterable[str],
    shared: Iterable[tuple[str, ...]],
) -> tuple[str, ...]:
    """Parameters that should be in the program and are not, or not with the module's bytes.

    Args:
        module: that was exported.
        tensors: the named ones in the files.
        written: a tensor's file -> where its bytes lie now.
        excused: names that need not be in the program.
        shared: groups of names with one storage.
    """
    excused = set(excused)
    for group in shared:  # of tied parameters the program knows one name
        if excused.union(tensors).intersection(group):
            excused.update(name for name in group if name not in tensors)
    missing = []
    for name, parameter in module.named_parameters(remove_duplicate=False):
        tensor = tensors.get(name)
        if tensor is None:
            if name not in excused and parameter.numel():
                missing.append(name)
            continue
        stored = replace(tensor, file=written[tensor.file]).read()
        content = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        if stored.tobytes() != content.tobytes() or stored.shape != tuple(parameter.shape):
            missing.append(name)
    return tuple(missing)


def check_name_map(module: nn.Module, name_map: Mapping[str, str]) -> None:
    """Refuse a name map (name in the module -> training name) that fits no checkpoint.

    Raises:
        ExportError: it has a name that the module lacks, or gives one name to two tensors.
    """
    known = {name for name, _ in named_tensors(module)}
    unknown = sorted(set(name_map) - known)
    if unknown:
        raise ExportError(f"the name map has names that the module lacks: {unknown[:5]}")
    training = [name_map.get(name, name) for name in known]
    if len(set(training)) != len(training):
        twice = sorted({name for name in training if training.count(name) > 1})
        raise ExportError(f"the name map gives one name to several tensors: {twice[:5]}")
