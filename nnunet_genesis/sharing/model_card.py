"""The README of a repository of weights: YAML for the hub, and what people need to know."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from nnunet_genesis.checkpoint import GenesisWeights, Record
from nnunet_genesis.checkpoint.lineage import NOT_STATED, Origin, strictness
from nnunet_genesis.errors import printable
from nnunet_genesis.inspection import describe_weights

# Identifiers that the hub knows (its documentation's list, those in use for weights); another licence is "other".
_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense"),
    *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "openrail"),
    *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)
_CURVES = {"train_losses": "training loss", "val_losses": "validation loss", "r2": "R²", "ema_fg_dice": "Dice (EMA)"}
_ROWS = 12  # of the table of curves
_LONGEST = 2000  # characters of a line


def model_card(weights: GenesisWeights, plan: Mapping[str, Any], log: Mapping[str, Any], picture: str | None) -> str:
    """Write the card.

    Args:
        weights: with a record that may be shared.
        plan: their adaptation plan.
        log: nnU-Net's, of the run; may be empty.
        picture: name of a picture in the repository.
    """
    record, name = weights.record, plan["architecture_plans"]["arch_class_name"]
    sections = [
        f"---\n{yaml.safe_dump(front_matter(record), sort_keys=False, allow_unicode=True)}---",
        f"# {name}: {_line(record.method)}",
        "Weights of a 3D network for nnU-Net v2, written by "
        "[nnunet-genesis](https://pypi.org/project/nnunet-genesis) in the layout that nnU-Net, nnssl and nnDetection "
        "read: `checkpoint_final.pth` (tensors and plain data alone), `adaptation_plan.json`, `config.json`.",
        "## Network and data\n" + _table(_facts(weights)),
        "There are no images, names or paths in these files but those of this page.",
        *_training(record, log),
        *([f"## Restored slices\n![clean, corrupted, restored]({picture})"] if picture else []),
        *_lineage(record),
        "## Licence\n" + _licence(record),
        "## How to use\n" + _USE,
        "## Please cite\n" + "\n".join(f"- {_line(text)}" for text in record.citations or ["not stated"]),
    ]
    return "\n\n".join(sections) + "\n"


_USE = """```bash
pip install nnunet-genesis
nnUNetv2_genesis_import FOLDER_OF_THESE_FILES -o genesis.pth
nnUNetv2_genesis_plan -d 3 --for genesis.pth                # plans whose network takes the weights whole
nnUNetv2_preprocess -d 3 -p nnUNetGenesisPlans -c 3d_fullres
export nnUNet_extTrainer="$(nnUNetv2_genesis_trainers)"
nnUNetv2_train 3 3d_fullres 0 -p nnUNetGenesisPlans -tr nnUNetTrainerGenesisFull
```

Other networks take what fits: `nnUNetv2_genesis_inspect genesis.pth -d 3` says what that is."""


def front_matter(record: Record) -> dict[str, Any]:
    """Return the YAML of the card: licence, library, task, tags, and the repositories that the weights come from."""
    stated = record.licence or NOT_STATED
    known = re.sub(r"[\s_]+", "-", stated.strip().lower())
    licence = {"license": known} if known in _LICENCES else {"license": "other", "license_name": _line(stated)}
    supervised = str(record.method).startswith("supervised")
    origins = [*(entry.get("imported") for entry in record.lineage or ()), record.imported]
    sources = [str(origin.get("source")) for origin in origins if origin]
    bases = [source[3:].partition("@")[0] for source in sources if source.startswith("hf:")]
    tags = ["medical-imaging", "radiology", "3d", "nnunet", "nnssl", "nnunet-genesis"]
    return {
        **({} if stated.startswith(NOT_STATED) else licence),
        "library_name": "nnunetv2",
        "pipeline_tag": "image-segmentation" if supervised else "image-feature-extraction",
        "tags": [*tags, *(["segmentation"] if supervised else ["self-supervised", "pretrained"])],
        **({"base_model": list(dict.fromkeys(bases))} if bases else {}),
    }


def _facts(weights: GenesisWeights) -> Iterator[tuple[str, Any]]:
    found, record = describe_weights(weights), weights.record
    network, data = found["network"], record.data or {}
    yield "network", f"{network['kind']}, {len(network['strides'])} stages, features {network['features_per_stage']}"
    yield "parameters", f"{network['parameters']:,}"
    yield "patch", f"{found['patch_size']} voxels, axes {', '.join(found['axis_order'])}"
    yield "spacing", f"{_numbers(found['spacing_mm'])} mm" if found["spacing_mm"] else "unknown"
    yield "intensities", "; ".join(found["normalization"])
    yield "channels", ", ".join(map(str, found["channels"]))
    yield "data set", data.get("dataset_name")
    cases = data.get("number_of_cases")
    yield "cases", ", ".join(f"{number} {use}" for use, number in cases.items()) if isinstance(cases, dict) else None
    yield "software", ", ".join(f"{name} {version}" for name, version in (record.software or {}).items())


def _training(record: Record, log: Mapping[str, Any]) -> list[str]:
    """Tell objective, options, R² and curves, as far as they are known."""
    rows: dict[str, Any] = {"objective": record.method}
    for name, values in (("corruption", record.corruption), ("training", record.training), ("options", record.options)):
        if isinstance(values, Mapping):
            rows[name] = ", ".join(
                f"{key} {value}" for key, value in values.items() if value is not None and key != "licence"
            )
    text = "## Training\n" + _table(rows.items())
    return [text, *_curves(log)]


def _curves(log: Mapping[str, Any]) -> Iterator[str]:
    """Put the curves into a table of at most :data:`_ROWS` epochs, evenly chosen."""
    found = {title: values for key, title in _CURVES.items() if isinstance(values := log.get(key), list) and values}
    epochs = min(map(len, found.values()), default=0)
    if not epochs:
        return
    chosen = sorted({round(row * (epochs - 1) / max(1, min(epochs, _ROWS) - 1)) for row in range(min(epochs, _ROWS))})
    rows = [[str(epoch + 1), *(f"{values[epoch]:.4g}" for values in found.values())] for epoch in chosen]
    head = ["epoch", *found]
    yield "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _lineage(record: Record) -> list[str]:
    """List the weights that these come from, the oldest first."""
    entries = [*(record.lineage or ()), *([{"imported": record.imported}] if record.imported else [])]
    lines = []
    for entry in entries:
        told = entry.get("imported")
        if isinstance(told, Mapping):
            where = f", from {told['source']}" if told.get("source") else ""
            lines.append(f"`{_line(told.get('file'))}`{_line(where)} (SHA-256 {_line(told.get('sha256'))})")
        if "sha256" in entry:
            about = f"{_line(entry.get('method'))}, licence {_line(entry.get('licence'))}"
            lines.append(f"`{_line(entry.get('file'))}`: {about} (SHA-256 {_line(entry['sha256'])})")
    return (
        ["## Lineage\nThe oldest first:\n" + "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 1))]
        if lines
        else []
    )


def _licence(record: Record) -> str:
    own, theirs = record.licence or NOT_STATED, Origin(record.lineage or []).licence
    text = f"These weights: {_line(own)}."
    if record.lineage:
        text += f" The strictest of the weights that they come from: {_line(theirs)}."
        if strictness(own) < strictness(theirs):
            text += " **That may allow less: ask its owner.**"
    return text


def _table(rows: Any) -> str:
    lines = [f"| {name} | {_line(value).replace('|', '/')} |" for name, value in rows if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _numbers(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.3g}" for value in values)


def _line(text: Any) -> str:
    """Make one line of a text that may come from anybody."""
    return printable(" ".join(str(text).split()), _LONGEST)
