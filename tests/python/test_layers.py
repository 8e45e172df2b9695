# SPDX-License-Identifier: Apache-2.0
"""The tree is the architecture: include directions, import directions and file headers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# base <- format, kernels <- packed, runtime <- attach <- executorch, capi <- {python, jni}
MAY_INCLUDE: dict[str, set[str]] = {
    "base": {"status.def", "xxhash"},
    "format": {"base"},
    "kernels": {"base"},
    "packed": {"base", "kernels"},
    "runtime": {"base", "format", "kernels"},
    "attach": {"base", "format", "packed", "runtime"},
    "executorch": {"base", "format", "packed", "runtime", "attach"},
    "capi": {"base", "format", "kernels", "runtime", "attach", "status.def", "shira.h"},
    "python": {
        "base",
        "format",
        "kernels",
        "runtime",
        "attach",
        "executorch",
        "capi",
        "status.def",
        "shira.h",
    },
    "jni": {"shira.h", "status.def"},
    "include": {"status.def"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)

# What the device has; everything else is imported inside the function that needs it.
RUNTIME_IMPORTS = {"numpy", "shira_runtime"}
CLI_IMPORTS = RUNTIME_IMPORTS | {"rich", "typer"}


def wrong_includes(csrc: Path) -> list[str]:
    """Lists each quoted include that points the wrong way or at nothing we know."""
    wrong = []
    for source in sorted(path for path in csrc.rglob("*") if path.suffix in {".h", ".cpp", ".c"}):
        layer = source.relative_to(csrc).parts[0]
        for included in re.findall(
            r'^\s*#\s*include\s+"([^"]+)"', source.read_text(), re.MULTILINE
        ):
            folder, _, name = included.partition("/")
            target = name if folder == "shira" else folder
            if target != layer and target not in MAY_INCLUDE[layer]:
                wrong.append(f"{source.relative_to(csrc)} includes {included}")
    return wrong


def imports_at_load(body: list[ast.stmt]) -> Iterator[str]:
    """Yields the modules that executing `body` imports, leaving out functions and TYPE_CHECKING."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield "shira_runtime" if statement.level else statement.module or ""
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from imports_at_load(statement.orelse)
        elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for field in ("body", "orelse", "finalbody"):
                yield from imports_at_load(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from imports_at_load(handler.body)


def wrong_imports(source: str, allowed: set[str]) -> list[str]:
    """Lists the modules that `source` imports when loaded and should not."""
    return [
        module
        for module in imports_at_load(ast.parse(source).body)
        if module.split(".")[0] not in allowed | set(sys.stdlib_module_names)
        or module.startswith("shira_runtime.export")
    ]


def tracked_files() -> list[Path]:
    """The files of the repository, as git knows them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def text_of(path: Path) -> str:
    """The file's text, or nothing for a binary file."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return ""


def test_includes_point_one_way() -> None:
    assert wrong_includes(ROOT / "csrc") == []


def test_a_wrong_include_is_found(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "array.h").write_text('#include "base/result.h"\n# include "format/x.h"\n')
    assert wrong_includes(tmp_path) == ["base/array.h includes format/x.h"]


def test_the_runtime_loads_only_numpy() -> None:
    package = ROOT / "shira_runtime"
    wrong = []
    for path in sorted(package.rglob("*.py")):
        is_cli = path.relative_to(package).parts[0] in {"cli.py", "commands"}
        allowed = CLI_IMPORTS if is_cli else RUNTIME_IMPORTS
        wrong += [(path.name, module) for module in wrong_imports(path.read_text(), allowed)]
    assert wrong == []


def test_a_wrong_import_is_found() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "try:\n    import executorch.runtime\nexcept ImportError:\n    pass\n"
        "def later():\n    import torch\n"
        "import shira_runtime.export\n"
    )
    assert wrong_imports(source, RUNTIME_IMPORTS) == [
        "executorch.runtime",
        "shira_runtime.export",
    ]


def test_importing_the_runtime_leaves_torch_alone() -> None:
    script = (
        "import sys, shira_runtime, shira_runtime.cli\n"
        "print([name for name in ('torch', 'executorch') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-I", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (loaded.stdout.strip(), loaded.stderr) == ("[]", "")


def test_sources_name_their_licence() -> None:
    suffixes = {".py", ".pyi", ".cpp", ".h", ".c", ".def"}
    bare = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix in suffixes and "third_party" not in path.parts
        if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(text_of(path).splitlines()[:3])
    ]
    assert bare == []


def test_the_core_is_ascii() -> None:
    sources = [path for path in tracked_files() if path.is_relative_to(ROOT / "csrc")]
    assert [path.name for path in sources if not text_of(path).isascii()] == []


# Where people keep their work: such a path means something on one machine only.
PRIVATE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:home|root|Users|work|opt|mnt|srv)/[\w.-]+")
CLIMBING_PATH = re.compile(r"(?<![\w./])(?:\.\./)+[\w.-]*")


def paths_elsewhere(text: str, path: Path) -> list[str]:
    """Lists what in a file of the repository names a place outside it."""
    return PRIVATE_PATH.findall(text) + [
        climbing
        for climbing in CLIMBING_PATH.findall(text)
        if not (path.parent / climbing).resolve().is_relative_to(ROOT)
    ]


def test_the_project_stands_alone() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in tracked_files()
        for place in paths_elsewhere(text_of(path), path)
    ]
    assert found == []


def test_a_path_elsewhere_is_found() -> None:
    private = "/".join(["", "home", "me", "x.pte"])
    climbing = "../" * 3 + "x"
    text = (
        f"open('{private}'), {climbing}, ../x, https://example.org/home/me, $HOME/opt/x, /usr/bin"
    )
    assert paths_elsewhere(text, ROOT / "docs" / "python" / "x.md") == [
        private.removesuffix("/x.pte"),
        climbing,
    ]
