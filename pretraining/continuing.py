"""Begin a pretraining with weights that are there: anyone's, encoder and decoder, through the transfer."""

from pathlib import Path

from nnunet_genesis.checkpoint import load_weights
from nnunet_genesis.checkpoint.lineage import NOT_STATED, Origin, strictness
from nnunet_genesis.errors import GenesisError
from nnunet_genesis.files import regular_file, sha256
from nnunet_genesis.settings import Settings
from nnunet_genesis.training.distributed import together
from nnunet_genesis.transfer.plan import load_into
from pretraining.trainer import nnUNetTrainerRestoration


def start_from(trainer: nnUNetTrainerRestoration, file: Path) -> None:
    """Load the weights into a trainer's network, on every rank, and log what was; the trainer keeps their origin.

    Weights of a pretraining of ours bring the head along, which has learnt the same task.
    ``nnUNet_genesis_min_coverage`` and ``nnUNet_genesis_partial_widths`` are heeded as by the fine-tuning trainers.

    Raises:
        GenesisError: they can't be read, or cover too little of the encoder.
    """
    settings, weights = Settings.from_environment(), together(lambda: load_weights(file))
    trainer.initialize()
    parts = ("encoder", "decoder", *(["head"] if weights.record.training else []))
    report = load_into(trainer, weights, parts, settings)
    trainer.origin = weights.record.as_parent(file, weights.sha256)
    trainer.print_to_log_file(f"{report.to_text()}\n{licence_in_words(trainer.options.licence, trainer.origin)}")


def licence_in_words(own: str, origin: Origin) -> str:
    """Say what licence the new weights have, and warn where it allows more than those that they come from."""
    if own == NOT_STATED:
        return f"Licence: {origin.licence}, the strictest of the weights' that these come from (--licence for another)"
    if strictness(own) < strictness(origin.licence):
        return f"WARNING: --licence {own} may allow more than {origin.licence} of the weights that these come from"
    return f"Licence: {own}"


def check_same(file: Path, origin: Origin, checkpoint: Path) -> None:
    """Refuse to go on from a run's checkpoint with other weights than it began with; the file may have gone.

    Raises:
        GenesisError: it began with others, or with none.
    """
    began = origin.lineage[-1]["sha256"] if origin.lineage else None
    if began is None or (file.is_file() and sha256(regular_file(file)) != began):
        found = f"with weights of the SHA-256 {began}" if began else "without weights"
        raise GenesisError(
            f"--init {file}: the run of {checkpoint} was started {found}. Leave --init out to go on, or move the "
            "folder away to start anew."
        )
