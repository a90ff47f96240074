"""The table that ``make gpu`` prints: a line a row, the parts' cells under their own headings."""

from typing import Any

LONG = ("curve", "error", "shapes")  # in the JSON only


def table(content: dict[str, Any]) -> str:
    """Machine, parts with their seconds and errors, and rows."""
    lines = [", ".join(f"{key} {value}" for key, value in content["machine"].items()), ""]
    for part in content["parts"]:
        rows = [row for row in content["rows"] if row["part"] == part["part"]]
        lines.append(f"## {part['part']}: {part['status']}, {part['seconds']} s")
        lines += [_line(row) for row in rows]
        if part["error"]:
            lines += [f"    ! {line}" for line in part["error"].splitlines()[-6:]]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    cells = {key: value for key, value in row.items() if key not in ("part", "what", *LONG) and value is not None}
    return f"  {row['what']:<44} " + "  ".join(f"{key} {_shown(value)}" for key, value in cells.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
