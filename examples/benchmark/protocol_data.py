"""The labelled data of a protocol: an MSD task or an nnU-Net data set becomes a folder in ``nnUNet_raw``."""

import hashlib
import json
import re
import shutil
import sys
import tarfile
import urllib.request
from pathlib import Path

# The copies that MONAI maintains, with its checksums (monai.apps.DecathlonDataset).
MSD = "https://msd-for-monai.s3-us-west-2.amazonaws.com/{task}.tar"
MD5 = {"Task03_Liver": "a90ec6c4aa7f6a3d087205e23d4e6397", "Task04_Hippocampus": "9d24dba78a72977dbd1d2e110310f31b"}


def download(task: str, folder: Path) -> Path:
    """Fetch an MSD task over https, check it, unpack it. The only network access here, and only if asked for."""
    target, archive = folder / task, folder / f"{task}.tar"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {MSD.format(task=task)} to {archive}", flush=True)
    with urllib.request.urlopen(MSD.format(task=task)) as source, archive.open("wb") as file:
        shutil.copyfileobj(source, file)
    digest = hashlib.md5(usedforsecurity=False)
    with archive.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if (found := digest.hexdigest()) != MD5[task]:
        sys.exit(f"ERROR: {archive}: expected MD5 {MD5[task]}, found {found}. Delete it and download again.")
    try:
        with tarfile.open(archive) as content:
            _unpack(content, (folder / "partial").resolve())
    except tarfile.TarError as error:
        sys.exit(f"ERROR: {archive}: can't be unpacked ({error}). Delete it and download again.")
    (folder / "partial" / task).rename(target)
    archive.unlink()
    return target


def _unpack(content: tarfile.TarFile, folder: Path) -> None:
    """Unpack files and folders that stay inside; tarfile's own filter for that isn't in Debian 12's Python, 3.11.2."""
    members = content.getmembers()
    for member in members:
        if not (member.isreg() or member.isdir()) or not (folder / member.name).resolve().is_relative_to(folder):
            raise tarfile.ExtractError(f"{member.name} is a link, a device or outside of its folder")
    content.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
    content.extractall(folder, members)


def dataset_name(folder: Path) -> str:
    """``DatasetXXX_NAME`` for ``TaskXX_NAME`` or ``DatasetXXX_NAME``; checks that it is one of the two."""
    found = re.fullmatch(r"(Task\d\d|Dataset\d\d\d)_([A-Za-z0-9]+)", folder.name)
    missing = [name for name in ("dataset.json", "imagesTr", "labelsTr") if not (folder / name).exists()]
    if not found or missing:
        sys.exit(
            f"ERROR: {folder}: expected an MSD folder TaskXX_NAME or an nnU-Net folder DatasetXXX_NAME with "
            f"dataset.json, imagesTr and labelsTr; missing: {', '.join(missing) or 'such a name'}."
        )
    return f"Dataset{int(re.sub('[^0-9]', '', found[1])):03d}_{found[2]}"


def is_msd(folder: Path) -> bool:
    """MSD's dataset.json names the modality; nnU-Net's, the channels."""
    return "modality" in json.loads((folder / "dataset.json").read_text(encoding="utf-8"))


def link_or_clear(folder: Path, raw: Path) -> None:
    """Link an nnU-Net data set into ``nnUNet_raw``; of an MSD task, remove what an interrupted conversion left."""
    target = raw / dataset_name(folder)
    if not is_msd(folder):
        if not target.exists():
            target.symlink_to(folder.resolve(), target_is_directory=True)
    elif target.exists() and not (target / "dataset.json").exists():
        shutil.rmtree(target)
