"""Pretraining from a disk that is far away: each read of a case waits first."""

import os
import time
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from pretraining.trainer import nnUNetTrainerRestoration


class Far(nnUNetDatasetBlosc2):
    """Cases of which each read takes ``GENESIS_BENCH_LATENCY`` ms longer."""

    def load_case(self, identifier: str) -> Any:
        """Wait, then read."""
        time.sleep(float(os.environ["GENESIS_BENCH_LATENCY"]) / 1e3)
        return super().load_case(identifier)


class nnUNetTrainerSlowDisk(nnUNetTrainerRestoration):
    """Trains on such cases."""

    def initialize(self) -> None:
        """Take cases from far away."""
        super().initialize()
        self.dataset_class = Far
