"""Every shell block of the pages runs as it stands: in bash, page by page, on tiny scans with tiny networks.

The commands on bash's path hand their words to this process, which starts what the installed scripts call in warm
processes and adds ``SHORTER``. Absolute paths of the pages lie below a folder of the test's.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socketserver
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry

from tests.conftest import draw_few_voxels
from tests.integration.test_classify import write_scan
from tests.integration.test_foundation_weights import make_repository
from tests.integration.tiny_world import make_case, make_raw_dataset, shrink, write_image
from tests.integration.warm_processes import Within, start_command
from tests.nnunet_genesis.importers import foreign_files
from tests.nnunet_genesis.importers.test_planned_files import RESIDUAL
from tests.test_docs import PAGES, ROOT, shell_blocks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes")

NOT_RUN = {
    "pip install": "set-up, needs the network; tests/integration/test_wheel.py installs the wheel",
    "git clone": "set-up, needs the network",
    "make": "the Makefile's own targets",
    "nnUNetv2_genesis_import hf:": "needs the network; tests/nnunet_genesis/importers/test_hub.py",
    "srun": "needs SLURM; its variables are tested in tests/nnunet_genesis/training",
    "torchrun": "needs two machines; tests/integration/test_distributed.py starts two agents",
    "tensorboard": "a server that doesn't end",
    "python examples/benchmark": "hours; tests/examples/benchmark",
    "chest_ct.sh": "hours; its commands are on other pages",
}
QUICK = ["-device", "cpu"]
SHORTER = {
    "nnUNetv2_genesis_pretrain": [*QUICK, "--epochs", "1", "--iterations", "1"],
    "nnUNetv2_plan_and_preprocess": ["-npfp", "1", "-np", "1"],
    "nnUNetv2_preprocess": ["-np", "1"],
    "nnUNetv2_train": QUICK,
    "nnUNetv2_predict": [*QUICK, "--disable_tta", "-npp", "1", "-nps", "1"],
    "nnUNetv2_genesis_classify": QUICK,
    "nnUNetv2_genesis_features": QUICK,
}
# The tiny networks are narrower than the authors'.
SETTINGS = {"nnUNet_genesis_epochs": "1", "nnUNet_genesis_iterations": "1", "nnUNet_genesis_partial_widths": "1"}
# Of 5 cases, 4 are a fold's training cases.
FEWER = {"--cases 4 8 16 32 all": "--cases 2 all", "--cases 5 10 all": "--cases 2 3 all"}
PLACES = re.compile(r"(?<![\w.$/])/(?=scans|luna16|models)")
CLIENT = """#!{python} -SEs
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
server.sendall(json.dumps([words, os.getcwd(), dict(os.environ)]).encode() + b"\\n")
status, output = json.loads(server.makefile().read())
sys.stdout.write(output)
sys.exit(status)
"""


def plan_quickly() -> None:
    """``nnUNetv2_plan_and_preprocess`` for a tiny data set."""
    with pytest.MonkeyPatch.context() as patch:
        draw_few_voxels(patch)
        plan_and_preprocess_entry()


class World(socketserver.ThreadingUnixStreamServer):
    """A home with data, and a server that runs commands for the bash of a page."""

    def __init__(self, root: Path):
        super().__init__(str(root / "s"), _Request)
        self.root, self.lines, self.trained, self.skipped = root, list[str](), set[str](), set[str]()
        self.commands: dict[str, Any] = {
            script.name: script
            for script in entry_points(group="console_scripts")
            if script.value.partition(".")[0] in ("nnunet_genesis", "nnunetv2", "pretraining")
        }
        (root / "bin").mkdir()
        client = CLIENT.format(python=sys.executable, address=str(root / "s"))
        for name in {*self.commands, *(start.split()[0] for start in NOT_RUN)}:
            (root / "bin" / name).write_text(client)
            (root / "bin" / name).chmod(0o755)

    def run(self, words: list[str], folder: str, environment: dict[str, str]) -> tuple[int, str]:
        """Run a command; return its status and what it printed."""
        line = shlex.join(words)
        if start := next((start for start in NOT_RUN if line.startswith(start)), None):
            self.skipped.add(start)
            return 0, ""
        name, *arguments = words
        again = f"{line} {environment.get('nnUNet_genesis_weights')}"
        if again in self.trained:  # on several pages
            return 0, ""
        self.lines.append(line)
        output = self.root / f"output_{len(self.lines)}.txt"
        entry_point = plan_quickly if name == "nnUNetv2_plan_and_preprocess" else self.commands[name].load()
        command = Within(entry_point, folder)
        more = environment | {"HOME": os.environ["HOME"], "PATH": os.environ["PATH"]}
        more["nnUNet_n_proc_DA"] = "1" if "plan" in name else "0"  # nnU-Net's planner can't do with 0
        if "nnUNetGenesisUNet3DPlans" in arguments:
            more["nnUNet_genesis_mirroring"] = "0"  # its network is large, and validated in 8 mirrored ways
        process = start_command(command, arguments + SHORTER.get(name, []), output, **more)
        process.join(120)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        for file in self.root.glob("nnunet/preprocessed/*/nnUNetPlans.json"):
            plans = json.loads(file.read_text())
            shrink(plans["configurations"]["3d_fullres"])
            file.write_text(json.dumps(plans))
        if process.exitcode == 0 and name in ("nnUNetv2_train", "nnUNetv2_genesis_pretrain"):
            self.trained.add(again)
        return process.exitcode, output.read_text()

    def follow(self, page: Path) -> None:
        """Type the page's blocks into one bash."""
        folder = self.root / page.stem
        shutil.copytree(self.root / "here", folder, symlinks=True, copy_function=os.link)  # large, and only read
        text = PLACES.sub(f"{self.root}/", "\n".join(shell_blocks(page)))
        for many, few in FEWER.items():
            text = text.replace(many, few)
        for kept, code in re.findall(r"Save this as `(\S+)`.*?```python\n(.*?)```", page.read_text(), re.DOTALL):
            (folder / kept).parent.mkdir()
            (folder / kept).write_text(code)
        for seed in set(re.findall(r"\bseed_\d", text)):  # trainings that are repeated
            results, no_weights = self.root / "nnunet" / "results", shutil.ignore_patterns("*.pth")
            shutil.copytree(results, folder / seed, ignore=no_weights)
            for file in (folder / seed).rglob("summary.json"):  # a training gives another Dice each time
                file.write_text(file.read_text().replace('"Dice": 0.', f'"Dice": 0.{seed[-1]}'))
        (folder / "page.sh").write_text(f"set -euo pipefail\n{text}")
        nnunet = {f"nnUNet_{name}": str(self.root / "nnunet" / name) for name in ("raw", "preprocessed", "results")}
        trainers = {"nnUNet_extTrainer": str(ROOT / "nnunet_genesis" / "trainers")}
        path = {"HOME": str(self.root), "PATH": f"{self.root / 'bin'}:/usr/bin:/bin"}
        environment = os.environ | nnunet | trainers | SETTINGS | path
        bash = ["bash", "-c", "exec 2>&1; . ./page.sh"]
        run = subprocess.run(bash, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        assert run.returncode == 0, f"{self.lines[-1:]}\n{run.stdout[-3000:]}"


class _Request(socketserver.StreamRequestHandler):
    server: World

    def handle(self) -> None:
        answer = self.server.run(*json.loads(self.rfile.readline()))
        self.wfile.write(json.dumps(answer).encode())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The first page has been followed: data set 3 planned and trained, 701 pretrained."""
    root = tmp_path_factory.mktemp("pages")
    make_raw_dataset(root / "nnunet" / "raw", "Dataset003_Liver", {"background": 0, "liver": 1, "tumour": 2})
    here = root / "here"
    labels, candidates = ["case,label"], ["seriesuid,coordX,coordY,coordZ,class"]
    for index in range(4):
        write_image(make_case(index)[0][0], root / "scans" / "chest_ct" / f"scan{index}.nii.gz")
        labels.append(f"scan{index}.nii.gz,{'odd' if index % 2 else 'even'}")
        ball = write_scan(index, root / "luna16" / f"1.2.{index}.mha")
        candidates += [f"1.2.{index},{ball[0] + move},{ball[1]},{ball[2]},{int(move == 0)}" for move in (0, 8)]
    write_image(make_case(9)[0][0], here / "new_scans" / "new_0000.nii.gz")
    (here / "labels.csv").write_text("\n".join(labels))
    (here / "candidates_V2.csv").write_text("\n".join(candidates))
    (root / "models").mkdir()
    make_repository(root / "models" / "nnFoundationCNN", RESIDUAL)
    content = {"state_dict": foreign_files.random_state(foreign_files.v1_shapes()), "epoch": 1}
    torch.save(content, here / "genesis_nnunet_luna16_006.model")
    content = {"state_dict": foreign_files.random_state(foreign_files.unet3d_shapes())}
    torch.save(content, here / "Genesis_Chest_CT.pt")
    world = World(root)
    (here / "examples" / "benchmark").mkdir(parents=True)
    (here / "examples" / "benchmark" / "chest_ct.sh").symlink_to(root / "bin" / "chest_ct.sh")
    Thread(target=world.serve_forever, daemon=True).start()
    world.follow(FIRST)
    yield world
    world.shutdown()
    world.server_close()


FIRST = ROOT / "docs" / "get_started.md"
FOLLOWED = [page for page in PAGES if page.parent == FIRST.parent and page != FIRST and shell_blocks(page)]


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_the_page_can_be_followed(world, page):
    world.follow(page)


def test_what_is_not_run_is_on_a_page(world):
    assert world.skipped | {"git clone", "make"} == {*NOT_RUN}


def test_the_readme_shows_what_the_first_page_does():
    first = "\n".join(shell_blocks(FIRST))
    for line in "\n".join(shell_blocks(ROOT / "README.md")).splitlines():
        command = line.partition("  #")[0].strip()
        assert command.startswith("#") or command in first, line
