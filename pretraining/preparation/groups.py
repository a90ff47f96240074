"""Which scans are of one patient, without telling of whom: a hash with a key that never leaves the data set's folder.

A patient's number is short; of a plain hash it could be found by trying all numbers.
"""

import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import atomic_path
from pretraining.preparation.manifest import FILE_NAME as MANIFEST
from pretraining.preparation.manifest import Row
from pretraining.scans.scan import Scan

KEY = "genesis_group_key"
_PREFIX = "patient_"


def with_keyed_groups(base: Path, scans: Sequence[Scan], rows: Iterable[Row]) -> list[Scan]:
    """The scans, patients' groups hashed with the data set's key, which is made once and readable by its owner only.

    Args:
        base: the data set's folder.
        scans: as found; a group that isn't the case's own name is a patient's.
        rows: the manifest of earlier runs.

    Raises:
        GenesisError: the key of an earlier run is gone.
    """
    if all(scan.group == scan.case for scan in scans):
        return list(scans)
    key = _key(base, rows)
    return [scan if scan.group == scan.case else replace(scan, group=_keyed(key, scan.group)) for scan in scans]


def _keyed(key: bytes, group: str) -> str:
    return f"{_PREFIX}{hmac.new(key, group.encode(), 'sha256').hexdigest()[:12]}"


def _key(base: Path, rows: Iterable[Row]) -> bytes:
    file = base / KEY
    if not file.is_file():
        if any(row.group.startswith(_PREFIX) for row in rows):
            raise GenesisError(
                f"{file}: no such file, but {MANIFEST} names groups that were made with it: patients could be divided "
                "between training and held-out scans. Restore it, or prepare a new data set (-d, -n)."
            )
        with atomic_path(file) as path, open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(secrets.token_bytes(32))
    return file.read_bytes()
