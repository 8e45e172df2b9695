# SPDX-License-Identifier: Apache-2.0
"""Runs fuzz targets, says what they did, and keeps a JSON record of each run.

Run from the repository's root: ``python tests/fuzz/run.py --seconds 60 fuzz_open fuzz_index``. New
inputs are collected in ``build/fuzz/corpus``; with ``--keep`` the smallest set that covers as much
takes the place of ``tests/fuzz/corpus``. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "tests" / "fuzz" / "corpus"
MAX_INPUT_BYTES = 4096
LIMITS = [f"-max_len={MAX_INPUT_BYTES}", "-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=64"]


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


class Target:
    """One fuzz target: its program, and the folders of its inputs."""

    def __init__(self, name: str, programs: Path, output: Path) -> None:
        self.name = name
        self.program = programs / name
        self.output = output
        self.corpus = output / "corpus" / name
        self.findings = output / "findings" / name

    def run(self, seconds: int, seeds: Sequence[Path]) -> dict[str, Any]:
        """Fuzzes for ``seconds`` and returns the record of the run."""
        for folder in (self.corpus, self.findings):
            folder.mkdir(parents=True, exist_ok=True)
        known = set(self.findings.iterdir())
        inputs = [self.corpus, *(path for path in seeds if path.is_dir())]
        started = time.monotonic()
        process = subprocess.run(
            [
                self.program,
                f"-max_total_time={seconds}",
                f"-artifact_prefix={self.findings}/",
                "-print_final_stats=1",
                *LIMITS,
                *inputs,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        log = process.stderr
        (self.output / f"{self.name}.log").write_text(log)
        findings = sorted(str(path) for path in set(self.findings.iterdir()) - known)
        return {
            "target": self.name,
            "seconds": round(time.monotonic() - started, 1),
            **final_statistics(log),
            "exit_code": process.returncode,
            "findings": findings,
            "commit": commit(),
        }

    def merge(self, folder: Path, seeds: Sequence[Path]) -> None:
        """Puts into ``folder`` the smallest set of inputs that covers what all of them cover."""
        merged = self.output / "merged" / self.name
        shutil.rmtree(merged, ignore_errors=True)
        merged.mkdir(parents=True)
        inputs = [path for path in (*seeds, self.corpus) if path.is_dir()]
        subprocess.run(
            [self.program, "-merge=1", *LIMITS, merged, *inputs],
            capture_output=True,
            check=True,
        )
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(merged, folder)


def report(record: dict[str, Any]) -> str:
    """The record in one line."""
    verdict = "passed" if record["exit_code"] == 0 else "FAILED"
    return (
        f"{record['target']:<13} {verdict} {record['executions']:>10,} runs in "
        f"{record['seconds']:>5.1f} s, {record['executions_per_second']:>8,} per second, "
        f"{record['corpus_files']:>5,} inputs, {record['edges']:>5,} edges"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes the targets; returns 1 when one of them found something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="+", help="names of the programs")
    parser.add_argument("--programs", type=Path, required=True, help="folder of the programs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--keep", action="store_true", help="replace the kept inputs afterwards")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    first_inputs = options.output / "seeds"
    subprocess.run([options.programs / "make_seeds", first_inputs], check=True)

    def fuzz(name: str) -> dict[str, Any]:
        target = Target(name, options.programs, options.output)
        seeds = [KEPT / name, first_inputs / name]
        record = target.run(options.seconds, seeds)
        if options.keep and record["exit_code"] == 0:
            target.merge(KEPT / name, seeds)
        (options.output / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
        print(report(record), flush=True)
        if record["exit_code"] != 0:
            log = (options.output / f"{name}.log").read_text()
            print("\n".join(log.splitlines()[-60:]), *record["findings"], sep="\n", flush=True)
        return record

    started = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        records = list(pool.map(fuzz, options.targets))
    failed = [record["target"] for record in records if record["exit_code"] != 0]
    print(
        f"{len(records) - len(failed)} fuzz targets passed, {len(failed)} failed in "
        f"{time.monotonic() - started:.0f} s, {sum(r['executions'] for r in records):,} runs"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
