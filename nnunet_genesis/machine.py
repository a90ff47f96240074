"""The doctor's checks of the machine: GPU, shared memory, open files, compiler, cores."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage

from nnunet_genesis.doctor import FILES, LITTLE_SHARED, NO_SHARED, OK, PROBLEM, WARNING, Finding, writable

SHARED = Path("/dev/shm")
DRIVER = Path("/proc/driver/nvidia/version")
GPU_MEMORY = 8e9  # bytes; what nnU-Net plans for unless told otherwise


def check_gpu() -> Iterator[Finding]:
    """What torch sees of GPUs, and whether they compute."""
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
        little = free < GPU_MEMORY
        yield Finding(
            WARNING if little else OK,
            text,
            "Plan for less memory (-gpu_memory_target), or free some." if little else "",
        )


def check_shared_memory() -> Iterator[Finding]:
    """Loader processes pass batches through it."""
    if not SHARED.is_dir():
        return
    size = disk_usage(SHARED).total
    level = PROBLEM if size < NO_SHARED else WARNING if size < LITTLE_SHARED else OK
    advice = "" if level == OK else "In a container: docker run --shm-size=8g (or --ipc=host)."
    yield Finding(level, f"{SHARED}: {size / 1e9:.2f} GB", advice)


def check_files() -> Iterator[Finding]:
    """Batches in shared memory are open files."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < FILES
    advice = f"ulimit -n {4 * FILES}" if few else ""
    yield Finding(WARNING if few else OK, f"open files: at most {soft}", advice)


def check_compiler() -> Iterator[Finding]:
    """numba compiles the corruption and the resampling, and keeps the result."""
    import numba

    if numba.njit(lambda x: x + 1)(1) != 2:
        yield Finding(PROBLEM, "numba: compiles wrongly", "pip install --force-reinstall numba")
        return
    given, spec = os.environ.get("NUMBA_CACHE_DIR"), find_spec("pretraining")
    beside = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    places = [Path(given)] if given else [*beside, Path.home()]
    place = next((place for place in places if writable(place)), None)
    if place:
        yield Finding(OK, f"numba {numba.__version__}: compiles, and keeps the result in {place}")
    else:
        advice = "Set NUMBA_CACHE_DIR to a folder that you may write to."
        yield Finding(WARNING, "numba: no place for the result, so that every start compiles anew", advice)


def check_cores() -> Iterator[Finding]:
    """Cores that this process may use, and how many threads it is told to use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for variable in ("OMP_NUM_THREADS", "nnUNet_n_proc_DA"):
        value = os.environ.get(variable)
        if value is None:
            continue
        if not value.isdecimal() or int(value) > cores:
            text = f"{variable}={value}: expected a number of at most {cores}, the cores that may be used"
            yield Finding(WARNING, text, f"Unset it, or: export {variable}={cores}")
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Finding(OK, f"cores: {cores} (OMP_NUM_THREADS {threads}; with -device cpu it should be their number)")
