# SPDX-License-Identifier: Apache-2.0
"""The traps of patching a loaded ExecuTorch program in its mapping, on real exported programs."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from shb_files import adapter_bytes, tensor_entries

from shira_runtime import (
    Adapter,
    AttachError,
    BaseMismatchError,
    FormatError,
    UsageError,
    _core,
    load_program,
)

models = pytest.importorskip("_models", exc_type=ImportError)
torch = models.torch

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
WIDTH = 512


class Wide(torch.nn.Module):  # type: ignore[misc]
    """(1, 512) -> (1, 512); each weight has 256 pages of 4 KiB."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.second = torch.nn.Linear(WIDTH, WIDTH)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / WIDTH**0.5

    def forward(self, states: Any) -> Any:
        return self.second(torch.relu(self.first(states)))


def wide_input() -> Any:
    return torch.linspace(-1, 1, WIDTH)[None]


@dataclass(frozen=True)
class Files:
    inline: Path
    external: Path
    data: Path
    adapter: Path

    def digests(self) -> list[str]:
        paths = (self.inline, self.external, self.data)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One module as a .pte, as a .pte with a .ptd, and an adapter for 1 % of `first.weight`."""
    from shira_runtime.export.program import export_program

    folder = tmp_path_factory.mktemp("wide")
    names = ("inline.pte", "external.pte", "external.ptd", "wide.shb")
    files = Files(*(folder / name for name in names))
    module = Wide().eval().requires_grad_(False)
    export_program(module, (wide_input(),), files.inline)
    export_program(module, (wide_input(),), files.external, data_path=files.data)
    base = module.first.weight.numpy()
    indices = np.arange(3, base.size, 97)
    entries = tensor_entries("first.weight", base, indices, np.full(indices.size, 0.25))
    files.adapter.write_bytes(adapter_bytes("wide", entries))
    return files


@pytest.fixture(autouse=True)
def _files_are_never_written(files: Files) -> Any:
    before = files.digests()
    yield
    assert files.digests() == before


def copy_of(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    return copy


@dataclass(frozen=True)
class Area:
    """A memory area of this process that shows a file; what was copied on write is anonymous."""

    permissions: str
    locked: bool
    size_kib: int
    resident_kib: int
    anonymous_kib: int


def areas_of(path: Path) -> list[Area]:
    areas = []
    text = Path("/proc/self/smaps").read_text()
    for entry in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)[1:]:
        header, *lines = entry.splitlines()
        if header.split(maxsplit=5)[5:] not in ([str(path)], [f"{path} (deleted)"]):
            continue
        fields = dict(line.split(":", 1) for line in lines)
        areas.append(
            Area(
                header.split()[1],
                "lo" in fields["VmFlags"].split(),
                *(int(fields[key].split()[0]) for key in ("Size", "Rss", "Anonymous")),
            )
        )
    return areas


def weight_areas(path: Path) -> list[Area]:
    """Those with weights in them: the flatbuffer has a page or two."""
    return [area for area in areas_of(path) if area.size_kib > 4 * PAGE_BYTES // 1024]


def loaded_and_anchors(path: Path, data: Path | None = None) -> tuple[Any, list[tuple[str, int]]]:
    """A method that ExecuTorch has loaded, and where it says its constants are."""
    method = models.load_forward(path, data)
    tables = _core.ProgramFile.read(str(data or path))
    names = [tensor.name for tensor in tables.tensors if tensor.patchable]
    return method, [(name, method._method.get_attribute(name).data_ptr()) for name in names]


def attach_status(path: Path, anchors: list[tuple[str, int]]) -> str:
    with pytest.raises((AttachError, BaseMismatchError, FormatError, UsageError)) as caught:
        _core.Program().attach_file(str(path), anchors)
    assert caught.value.file == str(path)
    assert caught.value.status is not None
    return caught.value.status


@pytest.mark.parametrize("kind", ["inline", "data"])
def test_the_reader_agrees_with_the_exporters_and_with_the_weights(files: Files, kind: str) -> None:
    from shira_runtime.export.program_file import read_program_tensors

    path = getattr(files, kind)
    expected = {
        name: (tensor.offset_bytes, tensor.size_bytes, tensor.shape)
        for name, tensor in read_program_tensors(path).items()
    }
    tensors = _core.ProgramFile.read(str(path)).tensors
    found = {
        tensor.name: (tensor.offset_bytes, tensor.size_bytes, tensor.shape) for tensor in tensors
    }
    assert found == expected
    content, module = path.read_bytes(), Wide()
    for name, (offset, size, _) in found.items():
        weight = module.get_parameter(name).detach().numpy()
        assert content[offset : offset + size] == weight.tobytes(), name


@pytest.mark.parametrize("engine", ["executorch", "torch"])
def test_the_loaders_locked_pages_are_not_kept(
    files: Files, engine: Literal["executorch", "torch"], tmp_path: Path
) -> None:
    path = copy_of(files.inline, tmp_path)
    method = models.load_forward(path)
    before = weight_areas(path)
    assert {area.permissions for area in before} == {"r--s"}, "the loader has changed"
    del method
    gc.collect()
    program = load_program(path, engine=engine)
    (area,) = weight_areas(path)
    assert (area.permissions, area.locked, area.anonymous_kib) == ("rw-p", False, 0)
    # Our own mapping has the flatbuffer too; the kernel may map a huge page of the cache around it.
    assert area.resident_kib == 0 or engine == "executorch", "attaching has faulted pages in"

    program.add_adapter(files.adapter)
    report = program.switch("wide")
    (area,) = weight_areas(path)
    assert area.anonymous_kib * 1024 == report.pages_touched * PAGE_BYTES
    program.forward(wide_input())
    program.hard_revert()
    (area,) = weight_areas(path)
    assert area.anonymous_kib == 0
    program.switch("wide")
    program.verify_base()


def test_an_application_that_locks_its_memory(files: Files, tmp_path: Path) -> None:
    path = copy_of(files.inline, tmp_path)
    script = f"""
        import ctypes, pathlib, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_attach
        from shira_runtime import load_program
        load_program({str(files.inline)!r})  # imports what it needs before memory is locked
        libc = ctypes.CDLL(None, use_errno=True)
        MCL_CURRENT, MCL_FUTURE = 1, 2
        if libc.mlockall(MCL_FUTURE) != 0:
            sys.exit(77)
        path = pathlib.Path({str(path)!r})
        program = load_program(path)
        (area,) = test_attach.weight_areas(path)
        assert not area.locked and area.anonymous_kib == 0, area
        program.add_adapter({str(files.adapter)!r})
        (base,) = program.forward(test_attach.wide_input())
        if libc.mlockall(MCL_CURRENT) != 0:
            sys.exit(77)
        program.switch("wide")
        assert test_attach.weight_areas(path)[0].locked
        program.hard_revert()
        assert (program.forward(test_attach.wide_input())[0] == base).all()
        print("served")
    """
    done = run(script)
    if done.returncode == 77:
        pytest.skip("mlockall is not permitted here")
    assert done.stdout.endswith("served\n"), done.stderr


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("kind", ["inline", "external"])
def test_killing_the_process_while_it_switches(files: Files, kind: str, tmp_path: Path) -> None:
    path = copy_of(getattr(files, kind), tmp_path)
    data = copy_of(files.data, tmp_path) if kind == "external" else None
    paths = [path, data] if data else [path]
    before = [each.read_bytes() for each in paths]
    script = f"""
        from shira_runtime import load_program
        program = load_program({str(path)!r}, {str(data) if data else None!r})
        program.add_adapter({str(files.adapter)!r})
        print("switching", flush=True)
        while True:
            program.switch("wide")
            program.switch({{"wide": -0.5}})
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "switching\n"
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [each.read_bytes() for each in paths] == before
    output = load_program(path, data).forward(wide_input())[0]
    assert (output == load_program(files.inline).forward(wide_input())[0]).all()


def test_of_two_mappings_the_anchored_one_is_patched(files: Files, tmp_path: Path) -> None:
    path = copy_of(files.inline, tmp_path)
    first, first_anchors = loaded_and_anchors(path)
    second, second_anchors = loaded_and_anchors(path)
    assert first_anchors != second_anchors
    (base,) = first.execute([wide_input()])
    assert attach_status(path, []) == "AMBIGUOUS"
    core = _core.Program()
    core.attach_file(str(path), second_anchors)
    core.add_adapter(Adapter.open(files.adapter)._core, "", False, False)
    core.switch_to([("wide", 1.0)], True)
    assert first.execute([wide_input()])[0].equal(base)
    assert not second.execute([wide_input()])[0].equal(base)
    assert attach_status(path, second_anchors) == "NOT_SUPPORTED", "attached already"
    # The first one is the only one left that can be meant.
    _core.Program().attach_file(str(path), [])


def test_a_program_that_takes_no_more_tensors_leaves_the_mapping_free(
    files: Files, tmp_path: Path
) -> None:
    path = copy_of(files.inline, tmp_path)
    program = load_program(files.inline)
    program.add_adapter(files.adapter)
    method, anchors = loaded_and_anchors(path)
    (base,) = method.execute([wide_input()])
    with pytest.raises(UsageError, match="before the first adapter"):
        program._core.attach_file(str(path), anchors)
    assert {area.permissions[1] for area in areas_of(path)} == {"-"}, "left writable"
    core = _core.Program()
    core.attach_file(str(path), anchors)
    core.add_adapter(Adapter.open(files.adapter)._core, "", False, False)
    core.switch_to([("wide", 1.0)], True)
    (patched,) = method.execute([wide_input()])
    assert not patched.equal(base)
    # Without their Program the weights stay as they are, and no new one takes the adapter away.
    del core
    assert attach_status(path, anchors) == "BASE_MODIFIED"
    assert method.execute([wide_input()])[0].equal(patched)


def test_a_program_left_at_the_base_may_be_attached_again(files: Files, tmp_path: Path) -> None:
    path = copy_of(files.inline, tmp_path)
    method, anchors = loaded_and_anchors(path)
    (base,) = method.execute([wide_input()])
    for _ in range(2):
        core = _core.Program()
        core.attach_file(str(path), anchors)
        core.add_adapter(Adapter.open(files.adapter)._core, "", False, False)
        core.switch_to([("wide", 1.0)], True)
        assert not method.execute([wide_input()])[0].equal(base)
        core.switch_to([], True)
        del core
        assert method.execute([wide_input()])[0].equal(base)


def test_a_single_mapping_is_found_without_anchors(files: Files, tmp_path: Path) -> None:
    path = copy_of(files.inline, tmp_path)
    method, anchors = loaded_and_anchors(path)
    core = _core.Program()
    core.attach_file(str(path), [])
    assert {(name, address) for name, _, _, address in core.tensors()} == set(anchors)
    del method


def test_small_tensors_of_a_data_file_need_anchors(files: Files, tmp_path: Path) -> None:
    data = copy_of(files.data, tmp_path)
    method, anchors = loaded_and_anchors(files.external, data)
    assert attach_status(data, []) == "AMBIGUOUS", "two biases share a page"
    core = _core.Program()
    core.attach_file(str(data), anchors)
    core.add_adapter(Adapter.open(files.adapter)._core, "", False, False)
    (base,) = method.execute([wide_input()])
    core.switch_to([("wide", 1.0)], True)
    assert not method.execute([wide_input()])[0].equal(base)
    core.switch_to([], True)
    assert method.execute([wide_input()])[0].equal(base)


@pytest.mark.parametrize("kind", ["inline", "external"])
def test_an_unloaded_program_is_detached(files: Files, kind: str, tmp_path: Path) -> None:
    data = copy_of(files.data, tmp_path) if kind == "external" else None
    path = data or copy_of(files.inline, tmp_path)
    method, anchors = loaded_and_anchors(files.external if data else path, data)
    core = _core.Program()
    core.attach_file(str(path), anchors)
    core.add_adapter(Adapter.open(files.adapter)._core, "", False, False)
    core.switch_to([("wide", 1.0)], True)
    del method
    gc.collect()
    assert not weight_areas(path), "ExecuTorch unmaps what was put in place of its mapping"
    # The addresses are likely to be given out again; nothing may be stored there.
    reused = [np.ones(WIDTH * WIDTH, np.float32) for _ in range(8)]
    for members in ([], [("wide", 0.5)]):
        with pytest.raises(AttachError) as caught:
            core.switch_to(members, True)
        assert (caught.value.status, caught.value.tensor) == ("DETACHED", "first.weight")
    with pytest.raises(AttachError):
        core.hard_revert()
    assert all((array == 1).all() for array in reused)


def test_a_program_loaded_from_memory_is_not_mapped(files: Files) -> None:
    from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

    module = _load_for_executorch_from_buffer(files.inline.read_bytes())
    gc.collect()
    assert attach_status(files.inline, []) == "NOT_MAPPED"
    del module


def test_a_file_that_was_truncated_or_replaced_since_it_was_loaded(
    files: Files, tmp_path: Path
) -> None:
    path, other = copy_of(files.inline, tmp_path), tmp_path / "other"
    method, anchors = loaded_and_anchors(path)
    content = path.read_bytes()
    os.truncate(path, len(content) // 2)
    assert attach_status(path, anchors) == "TRUNCATED"
    path.write_bytes(content)
    other.write_bytes(content)
    os.replace(other, path)
    assert attach_status(path, anchors) == "DETACHED"
    path.unlink()
    del method


def test_verification_names_the_byte_that_somebody_else_wrote(files: Files) -> None:
    import ctypes

    program = load_program(files.inline)
    addresses = {name: address for name, _, _, address in program._core.tensors()}
    byte = ctypes.c_uint8.from_address(addresses["second.weight"] + 1234)
    byte.value ^= 0xFF
    with pytest.raises(Exception, match=r"second\.weight \(from byte 1234 on\)"):
        program.verify_base()
    program.hard_revert()
    program.verify_base()
