"""One folder with every kind of odd input, prepared in one run: accepted as stated, or left out with its reason.

Data that are accepted equal what nnU-Net's own preprocessing makes of a clean copy.
"""

import contextlib
import csv
import faulthandler
import io
import multiprocessing
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

import pretraining.preparation.pipeline
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.scans.find import find_scans
from tests.faults import odd_dicom, odd_files, odd_names
from tests.faults.healthy import Healthy, healthy_scan, write
from tests.pretraining.preparation.synthetic_scans import World, preprocessed, use_folders

ROWS = {row.name: row for row in (*odd_files.ROWS, *odd_dicom.ROWS, *odd_names.ROWS)}
ACCEPTED = [name for name, row in ROWS.items() if row.clean]
OTHERS = [name for name, row in ROWS.items() if not row.clean]
HANG = 300  # seconds after which the run is stopped with a traceback: nothing here takes a tenth of it


@dataclass(frozen=True)
class Prepared:
    """What one run made of the whole table."""

    world: World
    scan: Healthy
    manifest: list[dict[str, str]]
    left_out: int
    out: str

    def rows(self, name: str) -> list[dict[str, str]]:
        return [row for row in self.manifest if row["source"].split("/")[1] == name]


def own(scan: Healthy, name: str) -> Healthy:
    """The scan of a row, of which no other is a copy."""
    voxels = scan.voxels.copy()
    voxels[tuple(length // 2 for length in voxels.shape)] = list(ROWS).index(name)
    return scan.with_voxels(voxels)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Iterator[Prepared]:
    root = tmp_path_factory.mktemp("odd")
    scan = healthy_scan(root)
    with warnings.catch_warnings():  # pydicom's, about what is odd on purpose
        warnings.simplefilter("ignore")
        for row in ROWS.values():
            (folder := root / "scans" / row.name).mkdir(parents=True)
            row.make(folder, own(scan, row.name))
    for place in ("here", "there"):
        write(root / place / "twins" / "a.nii.gz", scan)

    def find_and_change(*arguments: Any) -> tuple:
        found = find_scans(*arguments)
        for row in ROWS.values():
            if row.after:
                row.after(root / "scans" / row.name)
        return found

    world = World(root, {}, "CT")
    inputs = (root / "scans", root / "here" / "twins", root / "there" / "twins")
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as folders:
        use_folders(folders, root)
        patch.setattr(pretraining.preparation.pipeline, "find_scans", find_and_change)
        faulthandler.dump_traceback_later(HANG, exit=True)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            left_out = prepare_dataset(world.options(inputs=inputs, processes=1))
        faulthandler.cancel_dump_traceback_later()
        with (world.base / "genesis_manifest.csv").open(newline="", encoding="utf-8") as file:
            yield Prepared(world, scan, list(csv.DictReader(file)), len(left_out), out.getvalue())


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_data_equal_nnunets_own_of_a_clean_copy(prepared, tmp_path, name):
    row, world = ROWS[name], prepared.world
    rows = sorted(prepared.rows(name), key=lambda found: found["reason"])
    assert [(found["status"], found["reason"]) for found in rows[:1]] == [("prepared", "")]
    assert len(rows) == 1 + bool(row.company)
    assert all(re.search(row.company, found["reason"]) for found in rows[1:])
    clean = row.clean(own(prepared.scan, name))
    expected = preprocessed(world, write(tmp_path / "clean.nii.gz", clean), world.json("nnUNetPlans.json"))
    data, seg, _, properties = nnUNetDatasetBlosc2(str(world.data)).load_case(rows[0]["case"])
    np.testing.assert_allclose(data[:], expected, atol=2e-5)
    assert seg.shape == expected.shape
    np.testing.assert_allclose(properties["spacing"], clean.spacing, rtol=1e-4)
    np.testing.assert_allclose(properties["sitk_stuff"]["direction"], clean.direction, atol=1e-5)
    print(f"accepted: {name}, {'x'.join(map(str, data.shape[1:]))} voxels as nnU-Net makes them")


@pytest.mark.parametrize("name", OTHERS)
def test_the_rest_is_left_out_with_its_reason(prepared, name):
    row = ROWS[name]
    found = prepared.rows(name)
    assert {item["status"] for item in found} == ({"left out"} if row.reason else set())
    reasons = [item["reason"] for item in found]
    assert any(re.search(row.reason, reason) for reason in reasons) or not row.reason, reasons
    print(f"left out: {name}: {'; '.join(reasons) or 'ignored'}")


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="no such permissions here")
def test_what_may_not_be_read_is_left_out(prepared):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for place in ("open/a", "folder/closed/a", "file/b"):
            write(root / f"{place}.nii.gz", prepared.scan)
        (root / "file" / "b.nii.gz").chmod(0)
        (root / "folder" / "closed").chmod(0)
        scans, left_out = _as_nobody(root)
        (root / "folder" / "closed").chmod(0o700)  # to be removed
    assert scans == ["open/a.nii.gz"]
    assert set(left_out) == {"file/b.nii.gz", "folder/closed"}
    assert all("no permission" in reason for reason in left_out.values())
    print("left out: a folder and a file without permission")


def _as_nobody(root: Path) -> tuple[list[str], dict[str, str]]:
    """What is found below ``root`` by a user who isn't root, who may read everything."""

    def find(pipe: Connection) -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        scans, left_out = find_scans((root,))
        pipe.send(([scan.source for scan in scans], {item.source: item.reason for item in left_out}))

    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    process = fork.Process(target=find, args=(there,))
    process.start()
    assert here.poll(60)
    process.join()
    return here.recv()


def test_of_two_scans_with_one_name_and_content_the_first_is_prepared(prepared):
    twins = [row for row in prepared.manifest if row["source"].endswith("/twins/a.nii.gz")]
    assert sorted(row["status"] for row in twins) == ["left out", "prepared"]
    assert any("same content as" in row["reason"] for row in twins)


def test_what_was_taken_otherwise_is_remarked_on(prepared):
    (row,) = prepared.rows("two frames of reference")
    assert "several frames of reference" in row["remark"]
    assert not [row["source"] for row in prepared.rows("healthy series") if row["remark"]]


def test_nothing_is_lost_or_printed_raw(prepared):
    """Each scan has one row, and no name of a file reaches the terminal as a command."""
    sources = [row["source"] for row in prepared.manifest if row["source"].startswith("scans/")]
    assert {source.split("/")[1] for source in sources} == {
        row.name for row in ROWS.values() if row.clean or row.reason
    }
    assert len([row for row in prepared.manifest if row["status"] == "left out"]) == prepared.left_out
    assert not [c for c in prepared.out + "".join(sources) if ord(c) < 32 and c != "\n"]
    print(f"survived: {len(ROWS)} kinds of input in one run, {prepared.left_out} left out")
