"""The one exception that carries a message for the user, and text that can be shown whatever is in it."""

import unicodedata
from typing import Any


def printable(text: Any, length: int | None = None) -> str:
    """Escape control characters of untrusted text (a terminal's commands, line breaks, marks that turn the direction of
    writing), and cut it where it has more than ``length`` characters.
    """
    text = str(text)
    if length is not None and len(text) > length:
        text = text[: length - 1] + "…"
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    hidden = unicodedata.category(character)[0] == "C" or character in "\u2028\u2029"  # not the several spaces
    return ascii(character)[1:-1] if hidden else character


class GenesisError(Exception):
    """Bad input or state that the user can correct.

    The message names the file or key, what was expected, what was found, and what to do. Commands and trainers
    print it without a traceback and exit with status 1. It may quote an untrusted file: what could steer a terminal is
    escaped, line by line.
    """

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))
