"""What the tests' processes would each import or compile, once for all, in the process that they are forked from."""

# ruff: noqa: F401
from pathlib import Path

import nnunetv2
import torch
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

import nnunet_genesis.classification.trainer
import pretraining.classification.commands
import tests.faults.training_runs
import tests.integration.distributed_rank
import tests.integration.warm_processes
from pretraining.restoration.transform import CORRUPTIONS, RestorationTransform

# All trainers of nnU-Net's, which are imported whenever one of ours is looked for; timm with them.
folder = Path(nnunetv2.__file__).parent
recursive_find_python_class(
    str(folder / "training" / "nnUNetTrainer"), "none", "nnunetv2.training.nnUNetTrainer", str(folder)
)
for name in CORRUPTIONS:  # numba's loops
    RestorationTransform.only(name, 0)(image=torch.full((1, 20, 20, 20), 0.5))
