"""Fuzzing that follows the code's branches (atheris), for every reader of bytes; only with ``make soak``."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.faults.fuzz_targets import TARGETS

RUNS = 10_000


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if not target.structured])
def test_coverage_guided(name, tmp_path):
    if find_spec("atheris") is None:
        pytest.skip('no atheris: pip install -e ".[soak]"; it has wheels for Linux only')
    command = [sys.executable, "-m", "tests.faults.coverage_guided", name, str(tmp_path / "corpus")]
    options = [f"-runs={RUNS}", "-seed=1", "-max_len=100000", f"-artifact_prefix={tmp_path}/", "-rss_limit_mb=4096"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([*command, *options], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(r"cov: (\d+)", done.stderr)
    first, last = (found[0], found[-1]) if found else ("?", "?")
    kept = len(list((tmp_path / "corpus").iterdir()))
    print(f"survived: {RUNS} inputs of {name}, from {first} to {last} branches, {kept} inputs kept")
