# SPDX-License-Identifier: Apache-2.0
"""The engine in a process of its own: no torch, beside executorch.runtime, without executorch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


LOAD = f"""
    import sys
    import numpy as np
    import shira_runtime
    def load():
        return shira_runtime.load_program({str(PROGRAMS / "layers.pte")!r}, methods=["doubled"])
"""


def needs_engine() -> None:
    from shira_runtime.engine import load_extension

    try:
        load_extension()
    except ImportError as error:
        pytest.skip(str(error))


def test_torch_is_never_imported() -> None:
    needs_engine()
    script = (
        LOAD
        + f"""
    program = load()
    program.add_adapter({str(PROGRAMS / "layers.shb")!r})
    states = np.ones((2, 16), np.float32)
    base = program.forward(states)[0]
    program.switch("layers")
    assert (program.forward(states, method="doubled")[0] != 2 * base).any()
    program.switch(None)
    program.verify_base()
    print([name for name in ("torch", "executorch", "ml_dtypes") if name in sys.modules])
    """
    )
    done = run(script)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("order", ["ours", "theirs"])
def test_beside_executorchs_own_runtime(order: str) -> None:
    needs_engine()
    pytest.importorskip("executorch.runtime")
    pytest.importorskip("torch")
    script = (
        LOAD
        + f"""
    def theirs():
        import executorch.kernels.quantized
        from executorch.runtime import Runtime
        return Runtime.get().load_program({str(PROGRAMS / "layers.pte")!r}).load_method("forward")
    if {order!r} == "ours":
        program = load()
        method = theirs()
    else:
        method = theirs()
        program = load()
    import torch
    states = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
    (wanted,) = method.execute([torch.from_numpy(states)])
    assert program.forward(states)[0].tobytes() == wanted.numpy().tobytes()
    program.add_adapter({str(PROGRAMS / "layers.shb")!r})
    program.switch("layers")
    assert (method.execute([torch.from_numpy(states)])[0] == wanted).all()
    try:
        program.forward(np.zeros((0, 17), np.float32))
    except shira_runtime.UsageError as error:
        print("refused")
    """
    )
    done = run(script)
    assert done.stdout == "refused\n", done.stderr
    assert "register_pal" not in done.stderr


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        (
            "importlib.util.find_spec = lambda name: real(name) if name != 'executorch' else None",
            "loading a program needs ExecuTorch: pip install",
        ),
        (
            "importlib.util.find_spec = lambda name: None if '_executorch' in name else real(name)",
            "this build of shira_runtime has no ExecuTorch engine",
        ),
        (
            "importlib.metadata.version = lambda name: '1.6.0'",
            "executorch 1.6.0 is installed, and this build of shira_runtime needs 1.5.1",
        ),
        (
            "engine._LIBRARIES = ('libexecutorch.so', 'libexecutorch_other.so')",
            "are not of the executorch that this build of shira_runtime needs",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(lie: str, sentence: str) -> None:
    needs_engine()
    script = (
        LOAD
        + f"""
    import importlib.metadata, importlib.util
    from shira_runtime import engine
    real = importlib.util.find_spec
    {lie}
    try:
        load()
    except ImportError as error:
        print(error)
    weight = np.zeros((2, 3), np.float32)
    shira_runtime.from_numpy({{"w": weight}}).verify_base()  # everything else works
    """
    )
    done = run(script)
    assert sentence in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
