"""What the import command prints."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_genesis.checkpoint.architecture import GENESIS
from nnunet_genesis.errors import printable
from nnunet_genesis.importers.imported import Imported


def to_text(imported: Imported, output: Path) -> str:
    """What was read, what was placed, licence, citations, and the next commands."""
    record = imported.record
    network = _network(record)
    schemes = _entry(record.get("normalization"), "schemes")
    schemes = schemes if isinstance(schemes, list) else ["not known"]
    citations = record.get("citations") or ["not stated in the file"]
    parameters = sum(math.prod(shape) for shape in imported.placed.values())
    lines = [
        f"{output}: {network.rpartition('.')[2]}, from {_origin(imported)}",
        f"  {record.get('method')}",
        f"  axes {record.get('axis_order')}, patch {record.get('patch_size') or 'not known'}, spacing "
        f"{record.get('spacing') or 'not known'}, normalisation {', '.join(map(str, schemes))}",
        f"  placed: {len(imported.placed)} tensors, {parameters:,} values",
        *_reasons("not placed", imported.not_placed),
        *_reasons("filled", imported.filled),
        *(f"  note: {note}" for note in imported.notes),
        f"Licence: {record.get('licence') or 'not stated'}",
        "Cite:",
        *(f"  {citation}" for citation in (citations if isinstance(citations, list) else [citations])),
        *_next_commands(output, own_network=network == GENESIS),
    ]
    return "\n".join(map(printable, lines))


def _entry(value: Any, key: Any) -> Any:
    """``value[key]``, or None: what a Genesis checkpoint says of itself may lack anything."""
    return value.get(key) if isinstance(value, dict) else None


def _network(record: Mapping[str, Any]) -> str:
    planned = _entry(_entry(record["plans"], "configurations"), record["configuration"])
    return str(_entry(_entry(planned, "architecture"), "network_class_name") or "unknown")


def _origin(imported: Imported) -> str:
    origin = imported.record.get("imported")
    return f"{_entry(origin, 'file')} ({_entry(origin, 'format')})" if origin else "a Genesis checkpoint"


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
