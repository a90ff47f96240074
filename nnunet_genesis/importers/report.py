"""What the import command prints."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from nnunet_genesis.errors import printable
from nnunet_genesis.importers.architecture import GENESIS
from nnunet_genesis.importers.imported import Imported


def to_text(imported: Imported, output: Path) -> str:
    """What was read, what was placed, licence, citations, and the next commands."""
    record = imported.record
    architecture = record["plans"]["configurations"][record["configuration"]].get("architecture", {})
    network = str(architecture.get("network_class_name", "unknown")).rpartition(".")[2]
    parameters = sum(math.prod(shape) for shape in imported.placed.values())
    lines = [
        f"{output}: {network}, from {_origin(imported)}",
        f"  {record['method']}",
        f"  axes {record['axis_order']}, patch {record['patch_size']}, spacing {record['spacing'] or 'not known'}, "
        f"normalisation {', '.join(record['normalization']['schemes'])}",
        f"  placed: {len(imported.placed)} tensors, {parameters:,} values",
        *_reasons("not placed", imported.not_placed),
        *_reasons("filled", imported.filled),
        *(f"  note: {note}" for note in imported.notes),
        f"Licence: {record['licence']}",
        "Cite:",
        *(f"  {citation}" for citation in record["citations"] or ["not stated in the file"]),
        *_next_commands(output, own_network=architecture.get("network_class_name") == GENESIS),
    ]
    return "\n".join(map(printable, lines))


def _origin(imported: Imported) -> str:
    origin = imported.record.get("imported")
    return f"{origin['file']} ({origin['format']})" if origin else "a Genesis checkpoint"


def _reasons(title: str, reasons: Mapping[str, str]) -> list[str]:
    lines = []
    for reason, count in Counter(reasons.values()).most_common():
        example = next(name for name, why in reasons.items() if why == reason)
        lines.append(f"  {title}: {count} tensors (e.g. {example}): {reason}")
    return lines


def _next_commands(output: Path, own_network: bool) -> list[str]:
    file = shlex.quote(str(output))
    plan = f"  nnUNetv2_genesis_plan -d DATASET --architecture genesis_unet3d --weights {file}"
    return [
        "Next:",
        f"  nnUNetv2_genesis_inspect {file} -d DATASET",
        *([plan] if own_network else []),
        f"  export nnUNet_genesis_weights={shlex.quote(str(output.resolve()))}",
        "  nnUNetv2_train DATASET 3d_fullres FOLD -tr nnUNetTrainerGenesis",
    ]
