"""The manifest's page: pictures as a radiologist holds them, escaped, self-contained, bounded."""

import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import SimpleITK
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from PIL import Image

from pretraining.preparation.manifest import Row, update
from pretraining.preparation.page import PREVIEW, write_page
from pretraining.preparation.preview import preview
from pretraining.scans.scan import LeftOut

EVIL = "<script>alert(1)</script>\"'&\x1b]0;x\u202e"


def pictures(image: SimpleITK.Image) -> np.ndarray:
    """The three slices, (3, 128, 128, RGB)."""
    voxels = SimpleITK.GetArrayFromImage(image)
    stuff = {"spacing": image.GetSpacing(), "direction": image.GetDirection(), "origin": image.GetOrigin()}
    found = preview(voxels[None], (voxels > 0).astype(np.int8), {"sitk_stuff": stuff})
    assert found.percentiles.shape == (1, 101)
    return np.stack(np.split(np.array(Image.open(io.BytesIO(found.jpeg))), 3, axis=1))


def blocks() -> SimpleITK.Image:
    """27 blocks of 1 to 27 with air around them: x to the left, y to the back, z to the head."""
    levels = np.arange(1, 28).reshape(3, 3, 3).astype(np.float32)
    image = SimpleITK.GetImageFromArray(np.pad(levels.repeat(8, 0).repeat(12, 1).repeat(12, 2), 3))
    image.SetSpacing((1, 1, 2))
    return image


def test_slices_lie_as_they_are_read():
    axial, coronal, sagittal = pictures(blocks())[:, :, :, 2].astype(int)  # blue: no outline
    up, left, middle, right, down = (34, 64), (64, 34), (64, 64), (64, 94), (94, 64)
    assert axial[up] < axial[middle] < axial[down]  # front to back
    assert axial[left] < axial[right]  # the patient's right is at the left
    assert coronal[up] > coronal[middle] > coronal[down]  # the head is above
    assert coronal[left] < coronal[right]
    assert sagittal[up] > sagittal[down]
    assert sagittal[left] < sagittal[right]


@pytest.mark.parametrize("axes", ["RAI", "SPL", "AIR"])
def test_however_the_file_has_its_axes(axes):
    image = blocks()
    difference = np.abs(pictures(SimpleITK.DICOMOrient(image, axes)) - pictures(image).astype(float))
    assert np.median(difference) < 2
    assert difference.mean() < 8


def test_outline_and_a_scan_of_one_value():
    colours = pictures(blocks()).reshape(-1, 3).astype(int)
    orange = (colours[:, 0] > 180) & (colours[:, 2] < 100)
    assert 300 < orange.sum() < 3000
    voxels = np.zeros((1, 4, 4, 4), np.float32)
    stuff = {"spacing": (1, 1, 50), "direction": np.eye(3).ravel(), "origin": (0, 0, 0)}
    preview(voxels, np.zeros((4, 4, 4), np.int8), {"sitk_stuff": stuff})


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_is_escaped_self_contained_and_bounded(tmp_path):
    image = blocks()
    stuff = {"spacing": (1, 1, 2), "direction": np.eye(3).ravel(), "origin": (0, 0, 0)}
    voxels = SimpleITK.GetArrayFromImage(image)[None]
    found = dataclasses.asdict(preview(voxels, (voxels[0] > 0).astype(np.int8), {"sitk_stuff": stuff}))
    (tmp_path / "plans").mkdir()
    rows = [
        Row(f"{i:03}{EVIL}", f"case_{i:03}", "prepared", "", "CT", "30x42x42", f"{1 + i / 99:.4g}x1x1", "g", EVIL * 99)
        for i in range(520)
    ]
    for row in rows[:-1]:
        write_pickle({PREVIEW: found} if row.case != "case_007" else {}, str(tmp_path / "plans" / f"{row.case}.pkl"))
    left_out = [LeftOut(f"{EVIL}{i}", f"{EVIL} {i} of {i + 2}" if i < 50 else "a" * i) for i in range(300)]
    update(tmp_path, rows, left_out)
    text = write_page(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert (tags.count("img"), tags.count("figure")) == (499, 500 + 3)
    assert "script" not in tags
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "520 scans prepared, 300 rows left out" in text
    assert "… of …" in text  # counted together
    assert "no picture" in text
    references = [value for _, found in page.tags for name, value in found.items() if name in ("src", "href")]
    assert all(re.match("data:image/jpeg;base64,", value) for value in references)
    assert len(text) < 10e6


def test_page_of_nothing(tmp_path):
    update(tmp_path, [], [LeftOut("a.nii", "empty file (0 bytes)")])
    assert "empty file (0 bytes)" in write_page(tmp_path).read_text()
