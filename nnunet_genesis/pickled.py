"""What loading a stranger's pickle would cost, found by following its operations without building anything.

``torch.load(weights_only=True)`` runs no foreign code, but it calls what it allows with any arguments: a file of 100
bytes can have a gigabyte allocated, a text doubled 30 times, or a tuple hashed for years.
"""

import pickletools
from pathlib import Path
from typing import IO, Any, NamedTuple

from nnunet_genesis.errors import GenesisError

LEVELS = 100  # of nested tuples; torch's own have 3. Python hashes a tuple by recursion in C, without a limit
BUDGET = 1 << 28  # bytes of Python objects; nnU-Net's logs of 8000 epochs with 25 classes take half of it

# Bytes, roughly, that an operation takes besides what the file itself holds.
_OPERATION, _CONTAINER, _ENTRY, _TENSOR, _CALL = 16, 64, 100, 1000, 64
_GROWTH = 12  # an encoding's result over its input, at most


class _Node(NamedTuple):
    """What is known of an object on the stack: levels of tuples, letters and tuples in it (counted as often as they
    are in it, which is what hashing and encoding take), and its name."""

    levels: int = 0
    size: int = 0
    name: str = ""


_PLAIN = _Node()


def check_pickle(pickled: bytes | IO[bytes], path: Path) -> None:
    """Refuse a pickle that would crash its reader, fill the memory or never end.

    Args:
        pickled: the pickle; a file is read up to the pickle's end.
        path: for the message.

    Raises:
        GenesisError: it is such a pickle.
        ValueError, IndexError, KeyError, TypeError: it is no pickle.
    """
    stack: list[Any] = []  # nodes; None is a mark
    memo: dict[Any, _Node] = {}
    spent = 0
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        spent += _OPERATION
        if name == "MEMOIZE" or "PUT" in name:
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
        else:
            taken = _take(stack, operation)
            made, cost = _made(name, argument, taken, path)
            spent += cost
            stack += [None if kind is pickletools.markobject else made for kind in operation.stack_after]
            if made.levels > LEVELS:
                raise _refusal(path, f"tuples nested more than {LEVELS} deep")
            spent = max(spent, _OPERATION * made.size)
        if spent > BUDGET:
            raise _refusal(path, f"objects that would take more than {BUDGET >> 20} MiB")


def _refusal(path: Path, found: str) -> GenesisError:
    return GenesisError(
        f"{path}: refused. Expected tensors and plain data, found {found}. The file was made to crash its reader or to "
        "fill the memory: get the original file."
    )


def _made(name: str, argument: Any, taken: list[_Node], path: Path) -> tuple[_Node, int]:
    """What an operation leaves on the stack, and what that costs."""
    if name in ("REDUCE", "NEWOBJ"):
        return _call(taken[1].name, taken[0].size, path)
    if name == "GLOBAL":
        return _Node(name=str(argument)), _CALL
    if name.startswith(("TUPLE", "EMPTY_TUPLE")):
        size = 1 + sum(node.size for node in taken)
        return _Node(1 + max((node.levels for node in taken), default=0), size), _CONTAINER
    if name.startswith(("SETITEM", "APPEND", "ADDITEMS")):
        return _PLAIN, _ENTRY * len(taken)
    if name.startswith(("EMPTY_", "DICT", "LIST", "FROZENSET")):
        return _PLAIN, _CONTAINER + _ENTRY * len(taken)
    if isinstance(argument, (str, bytes)):
        return _Node(size=len(argument)), _CONTAINER
    return taken[0] if name == "DUP" else _PLAIN, 0


def _call(function: str, size: int, path: Path) -> tuple[_Node, int]:
    """Calling ``module name`` with arguments of ``size`` bytes."""
    module, _, attribute = function.rpartition(" ")
    sized = module.startswith("torch") and attribute.endswith(("Tensor", "Storage"))  # what sets no value in them
    if sized or attribute in ("bytearray", "_rebuild_from_type_v2", "_rebuild_wrapper_subclass"):
        raise _refusal(path, f"a call of {attribute!r}, which takes as much memory as it is told to")
    if attribute == "encode":
        return _Node(size=_GROWTH * size), _GROWTH * size
    return _PLAIN, _TENSOR if attribute.startswith("_rebuild") else _CALL + size


def _take(stack: list[Any], operation: pickletools.OpcodeInfo) -> list[Any]:
    """Pop what the operation consumes, the last first; a mark (None on ``stack``) ends a run of any length."""
    before, taken = list(operation.stack_before), []
    if pickletools.markobject in before:
        while (node := stack.pop()) is not None:
            taken.append(node)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    return taken
