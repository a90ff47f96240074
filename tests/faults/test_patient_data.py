"""Nothing of a DICOM header that tells who the patient is reaches any file or line of output."""

import gzip
import hashlib
import io
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import blosc2
import numpy as np
import pydicom
import pytest
import torch

from nnunet_genesis.errors import GenesisError
from pretraining.preparation.manifest import GROUP_KEY as KEY
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.run import pretrain
from tests.faults.healthy import Healthy, cut, write_dicom
from tests.faults.preparations import without_processes
from tests.integration.tiny_world import make_case, shrink
from tests.pretraining.preparation.synthetic_scans import World, manifest, use_folders

ROOT = "1.2.826.0.1.4455667."  # of all identifiers
HEADER = {
    "PatientName": "Qvortex^Zimbalda",
    "PatientID": "4711",
    "PatientBirthDate": "19370513",
    "PatientAddress": "Wombatstrasse 17",
    "OtherPatientIDs": "XK-99-OTHER",
    "PatientComments": "comment-qqzz",
    "StudyDate": "20031129",
    "SeriesDate": "20031130",
    "AcquisitionDateTime": "20031201101112",
    "StudyTime": "093817.123",
    "AccessionNumber": "ACC7788990011",
    "InstitutionName": "Klinik Quastenflosser",
    "ReferringPhysicianName": "Doktor^Eisenbart",
    "OperatorsName": "Operator^Xylo",
    "StudyDescription": "descr-study-uvw",
    "SeriesDescription": "descr-series-uvw",
    "ProtocolName": "protocol-uvw",
    "StationName": "STATION-UVW",
    "DeviceSerialNumber": "SN-5566-UVW",
    "StudyInstanceUID": f"{ROOT}1",
    "FrameOfReferenceUID": f"{ROOT}2",
}
# A hash of a short number is as good as the number: it is found by trying them all.
HASHES = [hashlib.new(name, HEADER["PatientID"].encode()).hexdigest()[:12] for name in ("md5", "sha1", "sha256")]
PLANTED = [ROOT, *(value for name, value in HEADER.items() if name != "PatientID"), *HASHES]


def write_series(folder: Path, seed: int, patient: str = HEADER["PatientID"], **changes: object) -> list[Path]:
    """An MR series with all of ``HEADER``, and a private element."""
    image, _ = make_case(seed)
    scan = Healthy(np.round(image[0]).astype(np.int16), (1, 1, 1))
    uid = f"{ROOT}{zlib.crc32(folder.name.encode())}"
    header = {**HEADER, "PatientID": patient, "Modality": "MR", "RescaleIntercept": -1024, "SeriesInstanceUID": uid}
    files = write_dicom(folder, scan, **{**header, **changes})
    for number, file in enumerate(files):
        data = pydicom.dcmread(file)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number}"
        data.private_block(0x0099, "QVORTEX", create=True).add_new(1, "LO", "private-uvw")
        data.save_as(file)
    return files


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    """Two patients' series, and one for each reason that quotes a header most easily."""
    use_folders(monkeypatch, tmp_path)
    without_processes(monkeypatch)
    scans = tmp_path / "scans"
    write_series(scans / "a", 0)
    write_series(scans / "b", 1, patient="4712")
    write_series(scans / "gap", 2)[5].unlink()
    cut(write_series(scans / "cut", 3)[2], 0.5)
    cut(write_series(scans / "header cut", 4)[2], 0.1)
    write_series(scans / "pet", 5, Modality="PT")
    write_series(scans / "tilt", 6, ImageOrientationPatient=[1, 0, 0, 0, 0.9, 0.43589])
    write_series(scans / "slope", 7, RescaleSlope=0)
    for file in write_series(scans / "pixels", 8):
        file.write_bytes(
            file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
        )  # no such pixels
    return World(tmp_path, {})


def test_no_patient_data_in_any_output(world, capfd):
    prepare_dataset(world.options(modality="MR"))
    plans = world.json("nnUNetPlans.json")
    shrink(plans["configurations"]["3d_fullres"])
    (world.base / "nnUNetPlans.json").write_text(json.dumps(plans))
    pretrain("701", "3d_fullres", device=torch.device("cpu"), epochs=1, iterations=1)
    files = [*written(world.root / "preprocessed"), *written(world.root / "results")]
    assert {path.suffix for path in files} >= {".b2nd", ".pkl", ".json", ".csv", ".pth", ".png", ".txt"}
    output = "".join(capfd.readouterr())
    assert "held out" in output
    found = {
        (path.name, word)
        for path in files
        for content in contents(path)
        for word in PLANTED
        if word.encode() in content or word.encode("utf-16-le") in content
    }
    assert found == set()
    assert [word for word in PLANTED if word in output] == []
    assert len({row["reason"] for row in manifest(world.base)}) == 8  # one of each, and none
    print(f"survived: {len(PLANTED)} planted words, in none of {len(files)} files")


def written(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what they are packed from."""
    raw = path.read_bytes()
    yield path.name.encode()
    yield raw
    if path.suffix == ".b2nd":
        yield blosc2.open(str(path), mode="r")[:].tobytes()
    elif path.suffix == ".gz":
        yield gzip.decompress(raw)
    elif zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def test_groups_are_keyed_per_data_set_and_stay_when_scans_are_added(world):
    prepare_dataset(world.options(modality="MR"))
    before = {row["source"]: row["group"] for row in manifest(world.base) if row["case"]}
    assert before["a"] != before["b"]
    write_series(world.root / "more" / "c", 10)
    prepare_dataset(world.options(modality="MR", inputs=(world.root / "more",)))
    after = {row["source"]: row["group"] for row in manifest(world.base) if row["case"]}
    assert after == {**before, "c": before["a"]}
    key = (world.base / KEY).read_bytes()
    assert len(key) == 32
    if os.name == "posix":
        assert stat.S_IMODE((world.base / KEY).stat().st_mode) == 0o600
    others = [path for path in written(world.root / "preprocessed") if path.name != KEY]
    assert not [path for path in others for c in contents(path) if key in c or key.hex().encode() in c]
    prepare_dataset(world.options(modality="MR", dataset_id=702))
    assert not {*before.values()} & {row["group"] for row in manifest(world.base.with_name("Dataset702_CT"))}
    print("survived: groups can't be found by trying numbers, and stay when scans are added")


def test_lost_key_is_an_error_and_divides_no_patient(world):
    prepare_dataset(world.options(modality="MR"))
    (world.base / KEY).unlink()
    with pytest.raises(GenesisError, match=rf"{KEY}: no such file.*Restore it, or prepare a new data set"):
        prepare_dataset(world.options(modality="MR"))
