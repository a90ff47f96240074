"""The demo's scans: the same seed the same scan, HU as in a CT, a liver and a lesion in every labelled case."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import synthetic_torso
from synthetic_torso import LABELS, Torso, make_torso


@pytest.fixture(scope="module", params=range(3))
def torso(request: pytest.FixtureRequest) -> Torso:
    return make_torso(0, request.param)


def test_same_seed_same_scan() -> None:
    first, again = make_torso(7, 1), make_torso(7, 1)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.spacing == again.spacing


def test_other_seed_other_scan() -> None:
    first, other = make_torso(7, 1), make_torso(7, 2)
    assert first.spacing != other.spacing
    assert first.image.shape != other.image.shape or (first.image != other.image).mean() > 0.2


def test_hu_are_a_cts(torso: Torso) -> None:
    image = torso.image
    assert image.dtype == np.int16
    assert image.min() >= -1024
    assert image.max() < 1500
    shares = [((image >= low) & (image < high)).mean() for low, high in ((-1100, -900), (-150, 150), (300, 1500))]
    air, soft_tissue, bone = shares
    assert 0.3 < air < 0.7
    assert 0.2 < soft_tissue < 0.6
    assert 0.005 < bone < 0.1


def test_lesions_are_darker_than_the_liver(torso: Torso) -> None:
    # The median: voxels at the edge are part lung or fat.
    liver, lesion = (np.median(torso.image[torso.labels == LABELS[name]]) for name in ("liver", "lesion"))
    assert 45 < liver < 75
    assert 25 < liver - lesion < 50


def test_labels_are_all_there_and_no_others(torso: Torso) -> None:
    assert torso.labels.shape == torso.image.shape
    volumes = np.bincount(torso.labels.ravel()) * np.prod(torso.spacing) / 1000  # ml
    assert len(volumes) == len(LABELS)
    assert 200 < volumes[LABELS["liver"]] < 3000
    assert 5 < volumes[LABELS["lesion"]] < 300


def test_liver_lies_on_the_patients_right(torso: Torso) -> None:
    x = np.argwhere(torso.labels > 0)[:, 2].mean()
    assert x < np.argwhere(torso.image > -200)[:, 2].mean()


def test_labelled_data_set_is_nnunets(tmp_path: Path) -> None:
    synthetic_torso.write_labelled(tmp_path, training=1, test=1)
    for part, name in (("Tr", "torso_00"), ("Ts", "torso_01")):
        image = SimpleITK.ReadImage(str(tmp_path / f"images{part}" / f"{name}_0000.nii.gz"))
        labels = SimpleITK.ReadImage(str(tmp_path / f"labels{part}" / f"{name}.nii.gz"))
        assert image.GetSpacing() == labels.GetSpacing()
        assert image.GetSpacing()[2] == pytest.approx(6, abs=0.4)
        assert set(np.unique(SimpleITK.GetArrayFromImage(labels))) == set(LABELS.values())


def test_one_unlabelled_file_is_cut_short(tmp_path: Path) -> None:
    synthetic_torso.write_unlabelled(tmp_path / "scans", count=1)
    gzip.decompress((tmp_path / "scans" / "scan_00.nii.gz").read_bytes())
    with pytest.raises(EOFError):
        gzip.decompress((tmp_path / "scans" / synthetic_torso.TRUNCATED).read_bytes())
