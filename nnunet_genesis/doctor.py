"""``nnUNetv2_genesis_doctor``: whether this machine is set up, line by line, and what to do where it isn't."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from shutil import disk_usage

from nnunet_genesis.errors import GenesisError, printable

OK, WARNING, PROBLEM = "OK", "WARNING", "PROBLEM"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SHOWN = ("torch", "nnunetv2", "batchgeneratorsv2", "SimpleITK")
LITTLE_DISK, NO_DISK = 10e9, 1e9  # bytes; a fold of nnU-Net's keeps about 1 GB, a preprocessed data set 1 to 100
LITTLE_SHARED, NO_SHARED = 2e9, 256e6  # bytes; a patch of 128³ is 8 MB, and 12 processes keep several batches of them
FILES = 1024


@dataclass(frozen=True)
class Finding:
    """One line: ``OK``, ``WARNING`` or ``PROBLEM``; what was looked at and found; and, unless it is OK, what to do."""

    level: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8} {printable(self.text)}" + (f"\n         -> {self.advice}" if self.advice else "")


def check_folders() -> Iterator[Finding]:
    """nnU-Net's three folders: set, there, writable, with room."""
    for variable in FOLDERS:
        path = os.environ.get(variable)
        if not path:
            yield Finding(PROBLEM, f"{variable}: not set", f"export {variable}=/path/to/{variable}")
        elif not Path(path).is_dir():
            yield Finding(PROBLEM, f"{variable}: {path} is no folder", "Make the folder, or correct the variable.")
        elif not writable(Path(path)):
            level = WARNING if variable == "nnUNet_raw" else PROBLEM  # only read, once the images are there
            yield Finding(level, f"{variable}: {path} can't be written to", "Change its mode, or use another folder.")
        else:
            free = disk_usage(path).free
            level = PROBLEM if free < NO_DISK else WARNING if free < LITTLE_DISK else OK
            advice = "" if level == OK else "Make room, or set the variable to a larger disk."
            yield Finding(level, f"{variable}: {path}, {free / 1e9:.1f} GB free", advice)


def writable(folder: Path) -> bool:
    """Tried, not asked: a mode says nothing of a full or a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def check_versions() -> Iterator[Finding]:
    """Python and what this package asks for; those that matter most are always shown."""
    from packaging.requirements import Requirement

    yield Finding(OK, f"Python {sys.version.split()[0]}")
    try:
        asked = [Requirement(text) for text in metadata.requires("nnunet-genesis") or ()]
    except metadata.PackageNotFoundError:
        yield Finding(
            PROBLEM, "nnunet-genesis: not installed", "pip install nnunet-genesis (or, in a checkout: pip install .)"
        )
        return
    for requirement in asked:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found = "not installed"
        good = found != "not installed" and requirement.specifier.contains(found, prereleases=True)
        if not good:
            text = f"{requirement.name}: {found}, expected {requirement.specifier}"
            yield Finding(PROBLEM, text, f'pip install "{requirement}"')
        elif requirement.name in SHOWN:
            yield Finding(OK, f"{requirement.name} {found} (expected {requirement.specifier})")


def check_internals() -> Iterator[Finding]:
    """What we import, override and call of nnU-Net."""
    from nnunet_genesis.internals import missing, relied_on

    lost, count = missing(), len(relied_on())
    if lost:
        text = (
            f"nnunetv2 {metadata.version('nnunetv2')}: {len(lost)} of {count} things used are missing, e.g. {lost[0]}"
        )
        yield Finding(PROBLEM, text, 'Install a version that is known to work: pip install "nnunetv2>=2.8.1,<2.9"')
    else:
        yield Finding(OK, f"nnunetv2 has all {count} things that are used of it and its libraries")


def check_trainers() -> Iterator[Finding]:
    """Whether nnU-Net finds our trainers."""
    import contextlib
    import io

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    value, advice = os.environ.get("nnUNet_extTrainer"), 'export nnUNet_extTrainer="$(nnUNetv2_genesis_trainers)"'
    if not value:
        yield Finding(PROBLEM, "nnUNet_extTrainer: not set, nnUNetv2_train won't find the Genesis trainers", advice)
        return
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = recursive_find_trainer_class_by_name("nnUNetTrainerGenesis")
    except Exception as error:  # whatever the modules in that folder raise when they are imported
        yield Finding(PROBLEM, f"nnUNet_extTrainer: {value}: no nnUNetTrainerGenesis ({type(error).__name__})", advice)
        return
    if found.__module__ == "nnunet_genesis.trainer":
        yield Finding(OK, f"nnUNet_extTrainer: nnU-Net finds nnUNetTrainerGenesis in {value}")
    else:
        yield Finding(
            PROBLEM, f"nnUNet_extTrainer: {value} has another nnUNetTrainerGenesis ({found.__module__})", advice
        )


def check_settings() -> Iterator[Finding]:
    """Our own variables, and the file of weights."""
    from nnunet_genesis.files import regular_file
    from nnunet_genesis.settings import PREFIX, Settings

    try:
        weights = Settings.from_environment().weights
        if weights:
            regular_file(os.path.expanduser(weights))
    except GenesisError as error:
        yield Finding(PROBLEM, str(error), "See the table of variables in the README.")
        return
    names = sorted(name for name in os.environ if name.startswith(PREFIX))
    yield Finding(OK, f"{PREFIX}*: {', '.join(names) or 'none set'}")


def examine() -> list[Finding]:
    """All checks, each on its own: one that fails is a problem of its own."""
    from nnunet_genesis.machine import check_compiler, check_cores, check_files, check_gpu, check_shared_memory

    first = (check_folders, check_versions, check_internals, check_trainers, check_settings)
    found: list[Finding] = []
    for check in (*first, check_gpu, check_shared_memory, check_files, check_compiler, check_cores):
        found += guarded(check)
    return found


def guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The check's findings; what it raises is one."""
    try:
        return list(check())
    except Exception as error:  # a broken library may raise anything
        text = f"{check.__name__.removeprefix('check_')}: can't be checked ({type(error).__name__}: {error})"
        return [Finding(PROBLEM, text, 'Install the package anew: pip install --force-reinstall "nnunet-genesis"')]


def main() -> None:
    """The command; exit status 0 without problems (warnings allowed), else 1."""
    argparse.ArgumentParser(
        prog="nnUNetv2_genesis_doctor",
        description="Checks folders, versions, trainers, variables, GPU, shared memory and compiler. Changes nothing. "
        "Exit status: 0 all is well (warnings allowed), 1 there are problems.",
    ).parse_args()
    found = examine()
    print(*found, sep="\n")
    counts = {level: sum(finding.level == level for finding in found) for level in (OK, WARNING, PROBLEM)}
    print(f"\n{counts[OK]} OK, {counts[WARNING]} warnings, {counts[PROBLEM]} problems")
    sys.exit(int(counts[PROBLEM] > 0))
