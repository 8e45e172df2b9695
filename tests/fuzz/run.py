# SPDX-License-Identifier: Apache-2.0
"""Runs fuzz targets, says what they did, and keeps a JSON record of each run.

Run from the repository's root: ``python tests/fuzz/run.py --programs FOLDER fuzz_open``. A run
starts from the inputs kept in ``tests/fuzz/corpus`` and collects new ones in ``build/fuzz/corpus``;
with ``--keep`` the smallest set that covers as much is kept instead.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "tests" / "fuzz" / "corpus"
VECTORS = ROOT / "tests" / "vectors"
MAX_INPUT_BYTES = 4096
LIMITS = [f"-max_len={MAX_INPUT_BYTES}", "-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=64"]
# Most of the time would go into weighing the inputs collected so far.
SCHEDULE = "-entropic=0"


def commit() -> str:
    """The commit that is checked out, with a plus when files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def final_statistics(log: str) -> dict[str, int]:
    """What libFuzzer counted, from its closing lines."""
    numbers = {name: int(value) for name, value in re.findall(r"stat::(\w+):\s+(\d+)", log)}
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)/", log)
    edges, features, inputs = map(int, coverage[-1]) if coverage else (0, 0, 0)
    return {
        "executions": numbers.get("number_of_executed_units", 0),
        "executions_per_second": numbers.get("average_exec_per_sec", 0),
        "edges": edges,
        "features": features,
        "corpus_files": inputs,
    }


def unpack(name: str, folder: Path) -> Path:
    """Puts the kept inputs of a target into ``folder / name``, which is returned."""
    inputs = folder / name
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir(parents=True)
    archive = KEPT / f"{name}.tar.xz"
    if archive.exists():
        with tarfile.open(archive) as members:
            for member in members:
                content = members.extractfile(member)
                if content is not None:
                    (inputs / Path(member.name).name).write_bytes(content.read())
    return inputs


def pack(inputs: Path, archive: Path) -> None:
    """Keeps the files of a folder; the same files give the same archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as members:
        for path in sorted(inputs.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            members.addfile(member, io.BytesIO(path.read_bytes()))


class Target:
    """One fuzz target: its program, and the folders of its inputs."""

    def __init__(self, name: str, programs: Path, output: Path) -> None:
        self.name = name
        self.program = programs / name
        self.output = output
        self.corpus = output / "corpus" / name
        self.findings = output / "findings" / name
        self.first_inputs = [unpack(name, output / "kept"), output / "seeds" / name]
        for folder in (self.corpus, self.findings, *self.first_inputs):
            folder.mkdir(parents=True, exist_ok=True)

    def run(self, seconds: int) -> dict[str, Any]:
        """Fuzzes for ``seconds`` and returns the record of the run."""
        known = set(self.findings.iterdir())
        started = time.monotonic()
        process = subprocess.run(
            [
                self.program,
                f"-max_total_time={seconds}",
                f"-artifact_prefix={self.findings}/",
                "-print_final_stats=1",
                SCHEDULE,
                *LIMITS,
                self.corpus,
                *self.first_inputs,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        (self.output / f"{self.name}.log").write_text(process.stderr)
        return {
            "target": self.name,
            "seconds": round(time.monotonic() - started, 1),
            **final_statistics(process.stderr),
            "exit_code": process.returncode,
            "findings": sorted(path.name for path in set(self.findings.iterdir()) - known),
            "commit": commit(),
        }

    def keep(self) -> None:
        """Keeps the smallest set of inputs that covers what all of them cover."""
        merged = self.output / "merged" / self.name
        shutil.rmtree(merged, ignore_errors=True)
        merged.mkdir(parents=True)
        subprocess.run(
            [self.program, "-merge=1", *LIMITS, merged, *self.first_inputs, self.corpus],
            capture_output=True,
            check=True,
        )
        pack(merged, KEPT / f"{self.name}.tar.xz")


def compare_readers(programs: Path, output: Path, seconds: int) -> dict[str, Any]:
    """Runs tests/fuzz/differential.py over the inputs of the targets that read .shb files."""
    source = output / "seeds" / "fuzz_open" / "sample.shb"
    folders = [output / "seeds" / "fuzz_open", output / "corpus" / "fuzz_open", VECTORS]
    folders += [
        unpack(name, output / "kept_for_comparison") for name in ("fuzz_open", "fuzz_apply")
    ]
    record = output / "differential.json"
    record.unlink(missing_ok=True)
    process = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("differential.py"),
            f"--server={programs / 'reader_server'}",
            f"--source={source}",
            f"--seconds={seconds}",
            f"--output={output}",
            *folders,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (output / "differential.log").write_text(process.stdout)
    if record.exists():
        return {**json.loads(record.read_text()), "exit_code": process.returncode}
    nothing = {"seconds": 0.0, "executions": 0, "executions_per_second": 0, "corpus_files": 0}
    return {"target": "differential", **nothing, "exit_code": process.returncode, "findings": []}


def report(record: dict[str, Any]) -> str:
    """The record in one line."""
    verdict = "passed" if record["exit_code"] == 0 else "FAILED"
    return (
        f"{record['target']:<13} {verdict} {record['executions']:>10,} runs in "
        f"{record['seconds']:>6.1f} s, {record['executions_per_second']:>8,} per second, "
        f"{record['corpus_files']:>5,} inputs"
    )


def processor() -> str:
    """The processor's name."""
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes the targets; returns 1 when one of them found something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="+", help="programs, or differential")
    parser.add_argument("--programs", type=Path, required=True, help="folder of the programs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--keep", action="store_true", help="replace the kept inputs afterwards")
    options = parser.parse_args(arguments)
    output = options.output
    output.mkdir(parents=True, exist_ok=True)
    subprocess.run([options.programs / "make_seeds", output / "seeds"], check=True)

    def fuzz(name: str) -> dict[str, Any]:
        if name == "differential":
            record = compare_readers(options.programs, output, options.seconds)
        else:
            target = Target(name, options.programs, output)
            record = target.run(options.seconds)
            if options.keep and record["exit_code"] == 0:
                target.keep()
            (output / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
        print(report(record), flush=True)
        if record["exit_code"] != 0:
            log = (output / f"{name}.log").read_text()
            found = [str(output / "findings" / name / finding) for finding in record["findings"]]
            print("\n".join(log.splitlines()[-60:]), *found, sep="\n", flush=True)
        return record

    started = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        records = list(pool.map(fuzz, options.targets))
    context = {"cpu": processor(), "machine": platform.machine(), "jobs": options.jobs}
    run = {"schema": 1, "commit": commit(), "context": context, "targets": records}
    (output / "fuzz.json").write_text(json.dumps(run, indent=2) + "\n")
    failed = [record["target"] for record in records if record["exit_code"] != 0]
    print(
        f"{len(records) - len(failed)} fuzz targets passed, {len(failed)} failed in "
        f"{time.monotonic() - started:.0f} s, {sum(r['executions'] for r in records):,} runs"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
