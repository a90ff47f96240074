"""``nnUNetv2_genesis_doctor``: whether this machine is set up, line by line, and what to do where it isn't."""

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage

from nnunet_genesis.cli import parse
from nnunet_genesis.errors import GenesisError, printable
from nnunet_genesis.files import regular_file

OK, WARNING, PROBLEM = "OK", "WARNING", "PROBLEM"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SHOWN = ("torch", "nnunetv2", "batchgeneratorsv2", "SimpleITK")
LITTLE_DISK, NO_DISK = 10e9, 1e9  # bytes; a fold of nnU-Net's keeps about 1 GB, a preprocessed data set 1 to 100
LITTLE_SHARED, NO_SHARED = 2e9, 256e6  # bytes; a patch of 128³ is 8 MB, and 12 processes keep several batches of them
FILES = 1024
SHARED = Path("/dev/shm")
DRIVER = Path("/proc/driver/nvidia/version")
GPU_MEMORY = 8e9  # bytes; what nnU-Net plans for unless told otherwise


@dataclass(frozen=True)
class Finding:
    """One line: ``OK``, ``WARNING`` or ``PROBLEM``; what was looked at and found; what to do, shown unless it is OK."""

    level: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8} {printable(self.text)}" + (f"\n         -> {self.advice}" if self.level != OK else "")


def graded(value: float, little: float, none: float = 0) -> str:
    """Return the level of a quantity: below ``none`` a problem, below ``little`` a warning."""
    return PROBLEM if value < none else WARNING if value < little else OK


def check_folders() -> Iterator[Finding]:
    """Check nnU-Net's three folders: set, there, writable, with room."""
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
            text = f"{variable}: {path}, {free / 1e9:.1f} GB free"
            yield Finding(graded(free, LITTLE_DISK, NO_DISK), text, "Make room, or set the variable to a larger disk.")


def writable(folder: Path) -> bool:
    """Try, as a mode says nothing of a full or a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def check_versions() -> Iterator[Finding]:
    """Compare Python and what this package asks for with what is there; those that matter most are always shown."""
    from packaging.requirements import Requirement

    yield Finding(OK, f"Python {sys.version.split()[0]}")
    try:
        asked = [Requirement(text) for text in metadata.requires("nnunet-genesis") or ()]
    except metadata.PackageNotFoundError:
        advice = "pip install nnunet-genesis (or, in a checkout: pip install .)"
        yield Finding(PROBLEM, "nnunet-genesis: not installed", advice)
        return
    for requirement in asked:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found = "not installed"
        good = found != "not installed" and requirement.specifier.contains(found, prereleases=True)
        if not good or requirement.name in SHOWN:
            text = f"{requirement.name}: {found}, expected {requirement.specifier}"
            yield Finding(OK if good else PROBLEM, text, f'pip install "{requirement}"')


def check_trainers() -> Iterator[Finding]:
    """Check that nnU-Net finds our trainers."""
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
    ours = found.__module__ == "nnunet_genesis.trainer"
    which = f"nnUNet_extTrainer: {value} has {'the' if ours else 'another'} nnUNetTrainerGenesis ({found.__module__})"
    yield Finding(OK if ours else PROBLEM, which, advice)


def check_settings() -> Iterator[Finding]:
    """Check our own variables, and the file of weights."""
    from nnunet_genesis.settings import PREFIX, Settings

    try:
        weights = Settings.from_environment().weights
        if weights:
            regular_file(os.path.expanduser(weights))
    except GenesisError as error:
        yield Finding(PROBLEM, str(error), "All variables: docs/fine_tuning.md#variables")
        return
    names = sorted(name for name in os.environ if name.startswith(PREFIX))
    yield Finding(OK, f"{PREFIX}*: {', '.join(names) or 'none set'}")


def check_gpu() -> Iterator[Finding]:
    """List what torch sees of GPUs, and whether they compute."""
    import torch

    if not torch.cuda.is_available():
        if torch.backends.mps.is_available():
            yield Finding(OK, "GPU: Apple's; use -device mps")
        elif DRIVER.exists():
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
            text = f"GPU: a driver of Nvidia's is there, but torch ({built}) can't use it"
            yield Finding(PROBLEM, text, "Install a torch for this driver (https://pytorch.org), or update the driver.")
        else:
            yield Finding(WARNING, "GPU: none", "Fine for small networks and tests, with -device cpu.")
        return
    for number in range(torch.cuda.device_count()):
        name, (free, total) = torch.cuda.get_device_name(number), torch.cuda.mem_get_info(number)
        text = f"GPU {number}: {name}, {total / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
        try:
            torch.ones(1, device=f"cuda:{number}").add(1).cpu()
        except RuntimeError as error:
            found = f"{text}, can't compute ({str(error).splitlines()[0]})"
            yield Finding(PROBLEM, found, "Install a torch for this GPU and driver (https://pytorch.org).")
            continue
        yield Finding(graded(free, GPU_MEMORY), text, "Plan for less memory (-gpu_memory_target), or free some.")


def check_shared_memory() -> Iterator[Finding]:
    """Check its size: loader processes pass batches through it."""
    if SHARED.is_dir():
        size = disk_usage(SHARED).total
        advice = "In a container: docker run --shm-size=8g (or --ipc=host)."
        yield Finding(graded(size, LITTLE_SHARED, NO_SHARED), f"{SHARED}: {size / 1e9:.2f} GB", advice)


def check_files() -> Iterator[Finding]:
    """Check their limit: batches in shared memory are open files."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    level = OK if soft == resource.RLIM_INFINITY else graded(soft, FILES)
    yield Finding(level, f"open files: at most {soft}", f"ulimit -n {4 * FILES}")


def check_compiler() -> Iterator[Finding]:
    """Check that numba compiles, and has a place to keep the result."""
    import numba

    numba.njit(lambda x: x + 1)(1)
    given, spec = os.environ.get("NUMBA_CACHE_DIR"), find_spec("pretraining")
    beside = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    places = [Path(given)] if given else [*beside, Path.home()]
    place = next((place for place in places if writable(place)), None)
    kept = f"keeps the result in {place}" if place else "has no place for the result, so every start compiles anew"
    advice = "Set NUMBA_CACHE_DIR to a folder that you may write to."
    yield Finding(OK if place else WARNING, f"numba {numba.__version__}: compiles, {kept}", advice)


def check_cores() -> Iterator[Finding]:
    """Count the cores that this process may use, and how many threads it is told to use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for variable in ("OMP_NUM_THREADS", "nnUNet_n_proc_DA"):
        value = os.environ.get(variable, "0")
        if not value.isdecimal() or int(value) > cores:
            text = f"{variable}={value}: expected a number of at most {cores}, the cores that may be used"
            yield Finding(WARNING, text, f"Unset it, or: export {variable}={cores}")
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Finding(OK, f"cores: {cores} (OMP_NUM_THREADS {threads}; with -device cpu it should be their number)")


def examine() -> list[Finding]:
    """Run all checks, each on its own: one that fails is a problem of its own."""
    checks = (
        check_folders,
        check_versions,
        check_trainers,
        check_settings,
        check_gpu,
        check_shared_memory,
        check_files,
    )
    return [finding for check in (*checks, check_compiler, check_cores) for finding in guarded(check)]


def guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return the check's findings; what it raises is one."""
    try:
        return list(check())
    except Exception as error:  # a broken library may raise anything
        text = f"{check.__name__.removeprefix('check_')}: can't be checked ({type(error).__name__}: {error})"
        return [Finding(PROBLEM, text, 'Install the package anew: pip install --force-reinstall "nnunet-genesis"')]


def main() -> None:
    """Run the command; exit status 0 without problems (warnings allowed), else 1."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_genesis_doctor",
        description="Checks folders, versions, trainers, variables, GPU, shared memory and compiler. Changes nothing. "
        "Exit status: 0 all is well (warnings allowed), 1 there are problems.",
    )
    parse(parser)
    found = examine()
    counts = Counter(finding.level for finding in found)
    print(*found, f"\n{counts[OK]} OK, {counts[WARNING]} warnings, {counts[PROBLEM]} problems", sep="\n")
    sys.exit(int(counts[PROBLEM] > 0))
