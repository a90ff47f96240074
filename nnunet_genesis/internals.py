"""What of nnU-Net and its libraries this package uses, read from its own source, and what of that isn't there."""

import ast
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("nnunet_genesis", "pretraining")
THEIRS = ("nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl_utils", "dynamic_network_architectures")


def relied_on() -> set[tuple[str, str]]:
    """(module, name): each name that we import, and ``CLASS.method`` where ours calls ``super().method``."""
    return {pair for file in _sources() for pair in _of_file(ast.parse(file.read_text(encoding="utf-8")))}


def missing() -> list[str]:
    """What of :func:`relied_on` the installed versions lack, as ``module.name``."""
    return sorted(f"{module}.{name}" for module, name in relied_on() if not _is_there(module, name))


def _sources() -> Iterator[Path]:
    for package in PACKAGES:  # by their place: this package never imports pretraining
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield from Path(folder).rglob("*.py")


def _of_file(tree: ast.Module) -> Iterator[tuple[str, str]]:
    origin: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in THEIRS:
            origin |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
    yield from origin.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = [origin[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in origin]
            for module, name in bases[:1]:
                yield from ((module, f"{name}.{method}") for method in _super_methods(node))


def _super_methods(tree: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Name) and called.id == "super":
                yield node.attr


def _is_there(module: str, name: str) -> bool:
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True
