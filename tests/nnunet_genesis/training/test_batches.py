"""nnU-Net's own batches by number: the same whatever was made before, for any number of workers, at any speed."""

import threading

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_genesis.training.batches import KeyedBatches, finish, start

# batchgenerators ends its workers while its thread may still be reading from one.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
PATCH = (8, 12, 12)


@pytest.fixture
def make(tmp_path):
    """Makes keyed batches of two cases, with nnU-Net's augmentation of a cascade, which has transforms with memory."""
    for case in range(2):
        image = np.random.default_rng(case).normal(size=(1, 16, 20, 20)).astype(np.float32)
        seg = (image > 0.5).astype(np.int16) + (image > 1)
        properties = {"class_locations": {label: np.argwhere(seg == label) for label in (1, 2)}}
        for name in ("cases", "previous"):
            (tmp_path / name).mkdir(exist_ok=True)
        file = str(tmp_path / "cases" / f"case{case}")
        nnUNetDatasetBlosc2.save_case(image, seg, properties, file, image.shape, seg.shape)
        nnUNetDatasetBlosc2.save_seg(seg[0], str(tmp_path / "previous" / f"case{case}"))
    transforms = nnUNetTrainer.get_training_transforms(
        PATCH, (-0.5, 0.5), None, (0, 1, 2), False, [False], is_cascaded=True, foreground_labels=[1, 2]
    )
    labels = LabelManager({"background": 0, "one": 1, "two": 2}, None)

    def make(seed: int) -> KeyedBatches:
        cases, previous = str(tmp_path / "cases"), str(tmp_path / "previous")
        data = nnUNetDatasetBlosc2(cases, folder_with_segs_from_previous_stage=previous)
        loader = nnUNetDataLoader(data, 2, (10, 16, 16), PATCH, labels, 0.33, transforms=transforms)
        return KeyedBatches(loader, seed, 0)

    return make


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in ("data", "target"))


def test_batches_follow_from_their_number_alone(make):
    batches, anew = make(0), make(0)
    expected = [batches.batch(number) for number in range(12)]
    assert all(equal(expected[number], anew.batch(number)) for number in reversed(range(12)))
    assert not any(equal(expected[0], other) for other in expected[1:])
    assert not equal(expected[0], make(1).batch(0))


def test_nothing_is_chosen_by_time(make):
    keyed = make(0)
    blurs = [t.transform for t in keyed.transforms.transforms if hasattr(getattr(t, "transform", None), "benchmark")]
    assert blurs
    assert not any(blur.benchmark for blur in blurs)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_start_make_no_difference(make, workers):
    expected = [make(0).batch(number) for number in range(3, 7)]
    batches = start(make(0).batch, 3, workers)
    found = [next(batches) for _ in range(4)]
    finish(batches)
    assert all(equal(*pair) for pair in zip(expected, found, strict=True))


class Ending:
    """As batchgenerators' augmenter where a worker ends in the middle of a batch: its thread raises in ``_finish``."""

    def __init__(self):
        self.ends = threading.Event()
        self.pin_memory_thread = threading.Thread(target=self.receive)
        self.pin_memory_thread.start()

    def receive(self):
        self.ends.wait()
        raise EOFError

    def _finish(self):
        other = Ending.__new__(Ending)
        other.ends = self.ends
        stranger = threading.Thread(target=other.receive)
        stranger.start()
        self.ends.set()
        stranger.join()
        self.pin_memory_thread.join()


def test_what_the_loaders_thread_meets_while_it_ends_is_not_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    hook, loader = threading.excepthook, Ending()
    finish(loader)
    assert len(shown) == 1  # of a thread that isn't the loader's
    assert shown[0].thread is not loader.pin_memory_thread
    assert threading.excepthook is hook


def test_memory_is_pinned_for_a_gpu_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not start(lambda _: {}, 0, 1).pin_memory  # it would open a CUDA context
    assert start(lambda _: {}, 0, 1, pin_memory=True).pin_memory
