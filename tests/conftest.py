"""Where the real scans are. They are never committed; tests that need them skip with a reason."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("GENESIS_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real scans (see the README, "Tests")."""
    if not DATA.is_dir():
        pytest.skip(f"no real scans at {DATA}: set GENESIS_TEST_DATA to a folder that holds them")
    return DATA
