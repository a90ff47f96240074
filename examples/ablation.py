"""Which part of pretraining helps: examples/variants.py's variants, through the protocol, in one report.

    python examples/ablation.py DATA -o OUT --budget cpu --folds 0 --cases 4 ...    (protocol.py's options)

Each variant is pretrained and fine-tuned (encoder) in OUT/VARIANT; they share the preprocessed data. The report, in
OUT/report, compares them with restoration as published. Run it again to go on.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from variants import VARIANTS

TRAINER = "nnUNetTrainerGenesis"


def main() -> None:
    """Run the variants one after the other, then the report."""
    if "-o" not in sys.argv[2:] or {"--variant", "--arms"} & set(sys.argv):
        sys.exit(f"ERROR: expected DATA -o OUT and protocol.py's options but --variant and --arms.\n\n{__doc__}")
    at = sys.argv.index("-o") + 1
    out = Path(sys.argv[at]).resolve()
    for variant in VARIANTS:
        folder = out / variant
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("nnUNet_raw", "nnUNet_preprocessed"):
            (out / name).mkdir(exist_ok=True)
            if not (folder / name).exists():
                (folder / name).symlink_to(out / name, target_is_directory=True)
        options = [*sys.argv[1:at], str(folder), *sys.argv[at + 1 :]]
        script = Path(__file__).with_name("protocol.py")
        command = [sys.executable, str(script), *options, "--variant", variant, "--arms", "genesis"]
        if status := subprocess.run(command).returncode:
            sys.exit(status)
        collect(folder / "results", out / "results", variant)
    report = str(Path(sys.executable).with_name("nnUNetv2_genesis_report"))
    options = ["--results", str(out / "results"), "-o", str(out / "report"), "--baseline", f"{TRAINER}_restoration"]
    sys.exit(subprocess.run([report, *options]).returncode)


def collect(source: Path, target: Path, variant: str) -> None:
    """Copy a variant's results to where the report finds them all, each under a trainer's name of its own."""
    for dataset in (folder for folder in source.iterdir() if folder.is_dir()):
        for folder in dataset.glob(f"{TRAINER}__*"):
            name = folder.name.replace(TRAINER, f"{TRAINER}_{variant}", 1)
            shutil.copytree(folder, target / dataset.name / name, dirs_exist_ok=True)
        shutil.copy(dataset / "genesis_splits.json", target / dataset.name)


if __name__ == "__main__":
    main()
