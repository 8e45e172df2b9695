# SPDX-License-Identifier: Apache-2.0
"""What a type checker sees: the stub fits the extension, and the public API is typed strictly."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import shira_runtime
from shira_runtime import _core

pytest.importorskip("mypy")

PACKAGE = Path(shira_runtime.__file__).parent

USER_PROGRAM = """
import numpy as np
import shira_runtime
from shira_runtime import Adapter, Program, SwitchReport

weights = {"w": np.zeros((2, 3), np.float32)}
program: Program = shira_runtime.from_numpy(weights)
adapter: Adapter = Adapter.open("de.shb")
name: str = program.add_adapter(adapter, name="de")
report: SwitchReport = program.switch({"de": 0.5})
program.switch("de", wait=False)
program.switch(None)
with program.using("de") as inside:
    pages: int = inside.pages_touched
try:
    program.verify_base()
except shira_runtime.BaseMismatchError as error:
    where: str | None = error.tensor
    offset_bytes: int | None = error.offset_bytes
for tensor_name, tensor in adapter.tensors.items():
    print(tensor_name, tensor.shape, tensor.indices().dtype)
"""

MISTAKES = {
    "program.switch(3)": "arg-type",
    "program.switch(['de'])": "arg-type",
    "report.epoch = 1": "misc",
    "program.epoch = 1": "misc",
    "program.switch_to('de')": "attr-defined",
    "program.add_adapter('de.shb', 'de', 'x')": "call-arg|misc",
    "shira_runtime.from_numpy([1.0])": "arg-type",
}


def check(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run mypy --strict in a folder where the package lies as it is installed."""
    (folder / "shira_runtime").symlink_to(PACKAGE)
    (folder / "user.py").write_text(source)
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--config-file="]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, "user.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_user_program_is_typed_and_mistakes_are_found(tmp_path: Path) -> None:
    lines = USER_PROGRAM.splitlines() + list(MISTAKES)
    done = check(tmp_path, "\n".join(lines) + "\n")
    assert done.stderr == ""
    found: dict[int, str] = {}
    for message in done.stdout.splitlines():
        if ": error: " in message:
            found[int(message.split(":")[1])] = message.rpartition("[")[2].rstrip("]")
    first = len(USER_PROGRAM.splitlines()) + 1
    assert set(found) == set(range(first, first + len(MISTAKES))), done.stdout
    for line, expected in enumerate(MISTAKES.values(), first):
        assert found[line] in expected.split("|"), done.stdout


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_core.pyi").is_file()


def test_the_stub_names_what_the_extension_has() -> None:
    """A light form of what `make lint` asks stubtest; it also runs where only the wheel is."""

    def public(names: list[str]) -> set[str]:
        return {name for name in names if not name.startswith("_")}

    body = ast.parse((PACKAGE / "_core.pyi").read_text()).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    values = {
        node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert public(dir(_core)) == set(classes) | functions | public(sorted(values))
    for name, node in classes.items():
        members = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        assert public(dir(getattr(_core, name))) == public(sorted(members)), name
