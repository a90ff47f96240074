"""The README of a repository of weights: YAML for the hub, and what people need to know."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
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
    record = weights.record
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nnunet_genesis", "sharing"), trim_blocks=True, lstrip_blocks=True, finalize=_line
    )
    environment.filters.update(cell=lambda value: _line(value).replace("|", "/"), raw=_Raw)
    own, theirs = record.licence or NOT_STATED, Origin(record.lineage or []).licence
    page = environment.get_template("model_card.md.jinja").render(
        name=plan["architecture_plans"]["arch_class_name"],
        record=record,
        facts=_facts(weights),
        training=_training(record),
        curves=_curves(log),
        picture=picture,
        decoder=any(name.startswith("decoder.") for name in weights.network_weights),
        licence=own,
        strictest=theirs,
        laxer=strictness(own) < strictness(theirs),
    )
    return f"---\n{yaml.safe_dump(front_matter(record), sort_keys=False, allow_unicode=True)}---\n\n{page}\n"


class _Raw(str):
    """Lines of our own, which stay as they are."""


def _line(text: Any) -> str:
    """Make one line of a text that may come from anybody."""
    return text if isinstance(text, _Raw) else printable(" ".join(str(text).split()), _LONGEST)


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


def _training(record: Record) -> Iterator[tuple[str, Any]]:
    """Tell objective and options, as far as they are known."""
    yield "objective", record.method
    for name, values in (("corruption", record.corruption), ("training", record.training), ("options", record.options)):
        if isinstance(values, Mapping):
            told = {key: value for key, value in values.items() if value is not None and key != "licence"}
            yield name, ", ".join(f"{key} {value}" for key, value in told.items())


def _curves(log: Mapping[str, Any]) -> list[list[str]]:
    """Put the curves into a table of at most :data:`_ROWS` epochs, evenly chosen."""
    found = {title: values for key, title in _CURVES.items() if isinstance(values := log.get(key), list) and values}
    epochs = min(map(len, found.values()), default=0)
    if not epochs:
        return []
    chosen = sorted({round(row * (epochs - 1) / max(1, min(epochs, _ROWS) - 1)) for row in range(min(epochs, _ROWS))})
    rows = [[str(epoch + 1), *(f"{values[epoch]:.4g}" for values in found.values())] for epoch in chosen]
    head = ["epoch", *found]
    return [head, ["---"] * len(head), *rows]


def _numbers(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.3g}" for value in values)
