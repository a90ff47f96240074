"""A checkpoint as a repository of a model hub: the four files that other programs look for, and no patient's data."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from nnunet_genesis import checkpoint, importers
from nnunet_genesis.checkpoint import GenesisWeights, Record
from nnunet_genesis.checkpoint.architecture import input_channels
from nnunet_genesis.checkpoint.lineage import NOT_STATED, Origin, nnssl_citations, strictness
from nnunet_genesis.checkpoint.record import one_configuration
from nnunet_genesis.checkpoint.untrusted import plain
from nnunet_genesis.errors import GenesisError, printable
from nnunet_genesis.files import disk_in_words, whole_folder
from nnunet_genesis.importers.repository import CHECKPOINT, CONFIG, PLAN, README
from nnunet_genesis.sharing.model_card import model_card

PANEL = "restoration.png"

# Of a record, what is about the weights: anything else stays here.
_DATA = ("dataset_name", "channel_names", "number_of_cases", "fold")
_PARENT = ("file", "sha256", "method", "licence", "imported")
# A path from the root of a file system, wherever in a text; an address isn't one.
_PATH = re.compile(r"(?<![\w:/.\\-])(?:~?/|[A-Za-z]:[\\/]|\\\\)(?:[^\s'\"<>|]*[\\/])?")


def export_hub(file: Path, folder: Path, *, licence: str | None = None, panels: bool = False) -> GenesisWeights:
    """Write ``checkpoint_final.pth``, ``adaptation_plan.json``, ``config.json`` and a model card into a new folder.

    Args:
        file: a checkpoint of a pretraining or a fine-tuning, or imported weights.
        folder: for the four files; it must be empty or not there.
        licence: of the weights (default: what they say, and for fine-tuned ones the strictest of their lineage).
        panels: also put the run's last picture of restored slices there. They are a patient's.

    Returns:
        The weights as they were written.

    Raises:
        GenesisError: the checkpoint can't be read, the folder isn't empty, or there is no picture.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise GenesisError(f"{folder}: exists already and isn't an empty folder. Move it away, or choose another one.")
    source = importers.read(file)
    imported = importers.convert(source, licence=licence)
    weights = checkpoint.check(imported.checkpoint, file, source.sha256)
    picture = _picture(file) if panels else None
    try:
        record = shareable(weights.record)
        weights = dataclasses.replace(weights, record=record)
        plan = record.adaptation_plan(input_channels(weights.network_weights))
        log = plain(source.content.get("logging") or {}, file)
        card = model_card(weights, plan, log, PANEL if picture else None)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, UndefinedError) as error:
        raise GenesisError(
            f"{file}: its Genesis record is damaged ({type(error).__name__}: {error}). Write it anew with "
            "nnUNetv2_genesis_pretrain or nnUNetv2_genesis_import."
        ) from error
    content = {
        "network_weights": weights.network_weights,
        "genesis": record.to_plain(),
        importers.nnssl.PLAN: plan,
        "citations": nnssl_citations(record.citations),
        "trainer_name": str(source.content.get("trainer_name") or "imported"),
    }
    config = {"library_name": "nnunetv2", "architecture": plan["architecture_plans"]["arch_class_name"]}
    with disk_in_words(folder, "run the command again."), whole_folder(folder) as partial:
        checkpoint.save(content, partial / CHECKPOINT)
        for name, text in ((PLAN, json.dumps(plan, indent=2)), (CONFIG, json.dumps(config)), (README, card)):
            (partial / name).write_text(text, encoding="utf-8")
        if picture:
            shutil.copyfile(picture, partial / PANEL)
    return weights


def to_text(weights: GenesisWeights, folder: Path, panels: bool) -> str:
    """Say what was written, and what to look at before anybody else sees it."""
    record = weights.record
    lines = [f"{folder}: {CHECKPOINT}, {PLAN}, {CONFIG}, {README}", f"  licence: {record.licence or NOT_STATED}"]
    if (record.licence or NOT_STATED).startswith(NOT_STATED):
        lines.append("  WARNING: without a licence nobody may use them. Say one with --licence.")
    theirs = Origin(record.lineage or []).licence
    if record.lineage and strictness(record.licence or NOT_STATED) < strictness(theirs):
        lines.append(f"  WARNING: the weights that these come from are under {theirs}, which may allow less.")
    if panels:
        lines.append(f"  WARNING: {PANEL} shows a patient's slices. Look at it, and ask who may decide about them.")
    name = (record.data or {}).get("dataset_name")
    lines.append(f"Read {README} before you upload it: it names your data set ({name}) and its numbers of cases.")
    return "\n".join(map(printable, lines))


def shareable(record: Record) -> Record:
    """Return the record without what isn't about the weights; of paths, in whatever text, the last name stays."""
    properties = (record.normalization or {}).get("foreground_intensity_properties_per_channel", {})
    plans = one_configuration(record.plans, record.configuration, record.planned.configuration, properties)
    data = {key: value for key, value in (record.data or {}).items() if key in _DATA}
    lineage = [{key: entry[key] for key in _PARENT if key in entry} for entry in record.lineage or ()]
    changed = dataclasses.replace(record, plans=plans, data=data, lineage=lineage or None)
    return dataclasses.replace(changed, **without_paths(changed.to_plain()))


def without_paths(value: Any) -> Any:
    """Return plain data with the folders of paths removed from every text."""
    if isinstance(value, str):
        return _PATH.sub("", value)
    if isinstance(value, dict):
        return {key: without_paths(entry) for key, entry in value.items()}
    return [without_paths(entry) for entry in value] if isinstance(value, list) else value


def _picture(file: Path) -> Path:
    found = sorted(file.parent.glob("restoration_epoch*.png"))
    if not found:
        raise GenesisError(
            f"--panels: expected restoration_epoch*.png, as a pretraining leaves beside its checkpoint, found none in "
            f"{file.parent}. Leave --panels out."
        )
    return found[-1]
