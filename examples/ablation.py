"""Which part of pretraining helps: examples/variants.py's variants, through the protocol, in one report.

    python examples/ablation.py DATA -o OUT --budget cpu --folds 0 --cases 4 ...    (protocol.py's options)

Each variant is pretrained and fine-tuned in OUT/VARIANT (scratch only once); they share the preprocessed data. The
report, in OUT/report, compares them with scratch, or with restoration if --arms leaves scratch out. Run it
again to go on.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from protocol_options import ARMS, arguments
from variants import VARIANTS

SCRATCH = ARMS["scratch"]


def main() -> None:
    """Run the variants one after the other, then the report."""
    args = arguments(__doc__)
    if args.variant != "restoration":
        sys.exit("ERROR: --variant: all of them are run here; leave it out, or use examples/protocol.py for one.")
    arms, out = args.arms, args.o.resolve()
    for variant in VARIANTS:
        folder = out / variant
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("nnUNet_raw", "nnUNet_preprocessed"):
            (out / name).mkdir(exist_ok=True)
            if not (folder / name).exists():
                (folder / name).symlink_to(out / name, target_is_directory=True)
        mine = [arm for arm in arms if arm != "scratch" or variant == "restoration"]  # no pretraining, so run once
        options = ["-o", str(folder), "--variant", variant, "--arms", *mine]  # the last ones count
        command = [sys.executable, str(Path(__file__).with_name("protocol.py")), *sys.argv[1:], *options]
        if status := subprocess.run(command).returncode:
            sys.exit(status)
        collect(folder / "results", out / "results", variant)
    baseline = SCRATCH if "scratch" in arms else f"{ARMS[arms[0]]}_restoration"
    report = str(Path(sys.executable).with_name("nnUNetv2_genesis_report"))
    options = ["--results", str(out / "results"), "-o", str(out / "report"), "--baseline", baseline]
    sys.exit(subprocess.run([report, *options]).returncode)


def collect(source: Path, target: Path, variant: str) -> None:
    """Copy a variant's results to where the report finds them all, each under a trainer's name of its own."""
    for dataset in (folder for folder in source.iterdir() if folder.is_dir()):
        for folder in dataset.glob("nnUNetTrainerGenesis*__*"):
            trainer, _, rest = folder.name.partition("__")
            name = folder.name if trainer == SCRATCH else f"{trainer}_{variant}__{rest}"
            shutil.copytree(folder, target / dataset.name / name, dirs_exist_ok=True)
        shutil.copy(dataset / "genesis_splits.json", target / dataset.name)


if __name__ == "__main__":
    main()
