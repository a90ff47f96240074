"""One target under atheris, in a process of its own: TARGET, FOLDER, and libFuzzer's options.

Inputs that reach new branches are kept in FOLDER and altered further. The process ends with status 77 and the input
in a file ``crash-*`` where anything but GenesisError comes out.
"""

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["nnunet_genesis", "pretraining", "pickletools", "zipfile", "nibabel", "pydicom"]
):
    from tests.faults.fuzz_targets import TARGETS, survives

if __name__ == "__main__":
    name, folder, *options = sys.argv[1:]
    target = TARGETS[name]
    warnings.simplefilter("ignore")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (Path(folder) / f"seed{number}").write_bytes(seed)

    def run(data: bytes) -> None:
        survives(target, data)

    atheris.Setup([sys.argv[0], folder, *options], run)
    atheris.Fuzz()
