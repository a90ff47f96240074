"""Two preparations of one data set at a time: the second is refused, but for another part; a dead one doesn't block."""

import os
import platform
import signal
import subprocess
import sys

import pytest
import torch

from nnunet_genesis.errors import GenesisError
from pretraining.preparation.lock import LOCK, locked, refuse_while_prepared
from pretraining.preparation.pipeline import prepare_dataset
from pretraining.run import pretrain
from tests.pretraining.preparation.synthetic_scans import World, use_folders, write_scan

HOLD = """
import sys, time
from pathlib import Path
from pretraining.preparation.lock import locked
with locked(Path(sys.argv[1]), None, 1):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    use_folders(monkeypatch, tmp_path)
    write_scan(tmp_path / "scans" / "a.nii.gz")
    world = World(tmp_path, {})
    world.base.mkdir()
    return world


@pytest.mark.parametrize("part", [{}, {"num_parts": 2, "part_id": 1}])
def test_second_preparation_is_refused_and_changes_nothing(world, part):
    with locked(world.base, None, 1):
        with pytest.raises(GenesisError) as error:
            prepare_dataset(world.options(**part))
        assert [path.name for path in world.base.iterdir()] == [LOCK]
    for words in ("is being prepared already", f"process {os.getpid()} on {platform.node()}", LOCK, "Wait until"):
        assert words in str(error.value)
    print("survived: a second preparation at the same time")


def test_parts_go_on_at_the_same_time_but_not_with_the_whole_or_twice(world):
    with locked(world.base, 0, 2), locked(world.base, 1, 2):
        with (
            pytest.raises(GenesisError, match=rf"process {os.getpid()} on .*part_1_of_2.lock"),
            locked(world.base, 1, 2),
        ):
            pass
        with pytest.raises(GenesisError, match=r"part_0_of_2.lock.*part_1_of_2.lock"), locked(world.base, None, 1):
            pass
    with locked(world.base, None, 1):
        pass
    print("survived: two parts at the same time, one of them twice, and a merge before they had ended")


@pytest.mark.parametrize("part", [(None, 1), (0, 2)])
def test_pretraining_is_refused_while_scans_are_being_prepared(world, part):
    prepare_dataset(world.options())
    with locked(world.base, *part), pytest.raises(GenesisError, match=f"is being prepared .*process {os.getpid()} on"):
        pretrain(world.base.name, "3d_fullres", device=torch.device("cpu"))
    refuse_while_prepared(world.base)
    print("survived: a pretraining on scans of which some weren't there yet")


def test_lock_of_a_killed_process_is_free(world):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(world.base)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(GenesisError, match=f"process {process.pid} on"), locked(world.base, None, 1):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with locked(world.base, None, 1):
            pass
    print("survived: the lock of a process that was killed")
