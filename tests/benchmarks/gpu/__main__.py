"""All parts, each in a process of its own with a bound on its time; a table, and JSON that grows as they end.

``make gpu``, or ``python -m tests.benchmarks.gpu -o OUT [--data SCANS] [--budget SECONDS]``; ``DEVICE=cpu TINY=1 make
gpu`` rehearses it. Exit status 1 if a part failed; a part that this machine can't answer changes nothing.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu.part import UNAVAILABLE_STATUS
from tests.benchmarks.gpu.table import table

FAILURES = ("FAILED", "OUT OF TIME")
LEAST = 8  # seconds: what has less isn't begun
WAVES: tuple[tuple[tuple[str, float], ...], ...] = (  # (part, most seconds); those of a wave run at once
    (("world", 80),),
    # Nothing is timed here.
    (("stops", 150), ("numbers", 90), ("ranks:gloo", 110), ("ranks:nccl", 110), ("nccl", 60),
     ("steps:warm-0", 110), ("steps:warm-1", 110), ("steps:warm-2", 110)),
    # Alone, the most important first.
    (("steps", 100),), (("steps:compiled", 60),), (("busy", 70),), (("beside", 40),), (("learning", 90),),
)  # fmt: skip


@dataclass
class Running:
    """A part whose process runs."""

    name: str
    process: subprocess.Popen
    log: Path
    started: float
    seconds: float

    def ended(self) -> dict[str, Any] | None:
        """What became of it, if it has ended or its time is over."""
        status, taken = self.process.poll(), time.monotonic() - self.started
        if status is None and taken < self.seconds:
            return None
        _kill_all_of(self.process)
        words = {0: "done", UNAVAILABLE_STATUS: "not available", None: "OUT OF TIME"}.get(status, "FAILED")
        said = self.log.read_text(errors="replace")
        error = said[-1500:] if words in FAILURES else ""
        return {"part": self.name, "status": words, "seconds": round(taken, 1), "error": error}


def main() -> int:
    """Run the waves; 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("-o", type=Path, default=Path("gpu_out"), help="folder for gpu.json, rows.jsonl, table.txt")
    parser.add_argument("--data", type=Path, default=None, help="CTs (.nii.gz) to take [default: synthetic ones]")
    parser.add_argument("--budget", type=float, default=470, help="most seconds in all [default: 470]")
    parser.add_argument("--device", default=os.environ.get("DEVICE", "cuda"), choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", default=os.environ.get("TINY") == "1", help="rehearse")
    parser.add_argument("--parts", nargs="+", default=None, help="only these, beside world")
    args = parser.parse_args()
    args.o = args.o.resolve()
    args.o.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return run(args, Path(folder))


def run(args: argparse.Namespace, folder: Path) -> int:
    """All waves in this work folder."""
    deadline, ended = time.monotonic() + args.budget, list[dict[str, Any]]()
    rows, logs = args.o / "rows.jsonl", args.o / "logs.txt"
    rows.write_text("")
    logs.write_text("")
    (folder / "scans").mkdir()
    for scan in sorted(args.data.glob("*.nii.gz")) if args.data else []:
        shutil.copy(scan, folder / "scans")
    for wave in WAVES:
        chosen = [one for one in wave if not args.parts or one[0] in ("world", *args.parts)]
        left = deadline - time.monotonic()
        if left < LEAST or (ended and ended[0]["status"] in FAILURES):  # without the world nothing can be answered
            ended += [{"part": name, "status": "not begun", "seconds": 0, "error": ""} for name, _ in chosen]
            continue
        running = [_start(args, folder, name, min(most * (4 if args.tiny else 1), left)) for name, most in chosen]
        while running:
            time.sleep(0.1)
            for part in running[:]:
                if result := part.ended():
                    running.remove(part)
                    ended.append(result)
                    print(f"{part.name}: {result['status']}, {result['seconds']} s", flush=True)
                    _append(logs, part.log)
                    _write(args.o, ended)
    for log in sorted((folder / "logs").glob("*.txt")):
        _append(logs, log)
    _write(args.o, ended)
    print((args.o / "table.txt").read_text())
    return 1 if any(part["status"] in FAILURES for part in ended) else 0


def _append(logs: Path, log: Path) -> None:
    with logs.open("a") as file:
        file.write(f"==== {log.stem}\n{log.read_text(errors='replace')[-20000:]}\n")


def _start(args: argparse.Namespace, folder: Path, name: str, seconds: float) -> Running:
    told = {
        "name": name,
        "device": args.device,
        "tiny": args.tiny,
        "folder": str(folder),
        "rows_file": str(args.o / "rows.jsonl"),
        "seconds": seconds,
    }
    log = folder / f"{name.replace(':', '-')}.log"
    environment = {
        "GENESIS_GPU_PART": json.dumps(told),
        "OMP_NUM_THREADS": "1",
        "nnUNet_raw": str(folder / "nnUNet_raw"),
        "nnUNet_preprocessed": str(folder / "nnUNet_preprocessed"),
        "nnUNet_results": str(folder / "nnUNet_results"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.gpu.process"],
            env=os.environ | environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=Path(__file__).parents[3],
        )
    return Running(name, process, log, time.monotonic(), seconds)


def _kill_all_of(process: subprocess.Popen) -> None:
    """End the part's own process group: loaders and commands that it has left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _write(out: Path, ended: list[dict[str, Any]]) -> None:
    found = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    content = {"machine": machine(), "parts": ended, "rows": found}
    (out / "gpu.json").write_text(json.dumps(content, indent=1))
    (out / "table.txt").write_text(table(content))


def machine() -> dict[str, Any]:
    """Versions, cores and GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "gpus": gpus,
    }


if __name__ == "__main__":
    sys.exit(main())
