"""What the library imports: torch's private names in one file, no circles, and in functions optional packages alone."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONAL = {"keras", "ml_dtypes", "numpy", "onnx", "onnx_ir", "onnxscript"}
FILES = sorted((ROOT / "src" / "gru_ext").rglob("*.py"))


def private_names(source: str) -> set[str]:
    """The names of torch, as the source imports or reads them, with a part that begins with one underscore."""
    nodes = [*ast.walk(ast.parse(source))]
    named: dict[str, str] = {}  # what a name of the file stands for
    for node in nodes:
        if isinstance(node, ast.Import):
            named |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names if alias.asname}
            named |= {alias.name.split(".")[0]: alias.name.split(".")[0] for alias in node.names if not alias.asname}
        elif isinstance(node, ast.ImportFrom):
            named |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names} | {*named.values()}
    for node in nodes:
        parts, value = [], node
        while isinstance(value, ast.Attribute):
            parts.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name) and value.id in named:
            found.add(".".join([named[value.id], *reversed(parts)]))
    return {name for name in found if re.match(r"torch\..*?(?<=\.)_(?!_)", name)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_of_torch_stand_in_one_file(path: Path) -> None:
    found = private_names(path.read_text())
    assert bool(found) == (path.name == "torch_internals.py"), found


def test_every_way_to_a_private_name_is_found() -> None:
    source = """
import torch
import torch._lazy as lazy
import torch._dynamo.testing
from torch import _dynamo, nn as layers
from torch.autograd import forward_ad
torch._C._get(), forward_ad._level, layers.modules._Hook, layers.GRU.__init__, layers.GRU().weight, own._x
"""
    longest = {
        "torch._lazy",
        "torch._dynamo.testing",
        "torch._dynamo",
        "torch._C._get",
        "torch.autograd.forward_ad._level",
        "torch.nn.modules._Hook",
    }
    assert longest <= private_names(source) <= longest | {"torch._C"}


def imports(path: Path) -> dict[ast.stmt, list[str]]:
    """The modules that each import of a file names; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text())
    checked = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    skipped = {inner for node in checked for inner in ast.walk(node)}
    named: dict[ast.stmt, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in skipped:
            named[node] = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node not in skipped:
            named[node] = [f"{node.module}.{alias.name}" for alias in node.names]
    return named


def test_no_file_imports_itself_through_others() -> None:
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

    def module(name: str) -> str | None:
        """The file that an imported name is of: itself, or what has it."""
        return name if name in files else name.rpartition(".")[0] if name.rpartition(".")[0] in files else None

    needs = {
        name: {needed for names in imports(path).values() for n in names if (needed := module(n)) and needed != name}
        for name, path in files.items()
    }
    tuple(graphlib.TopologicalSorter(needs).static_order())  # raises CycleError


def test_functions_import_what_is_not_always_installed() -> None:
    for path in FILES:
        for node, names in imports(path).items():
            packages = {name.split(".")[0] for name in names}
            assert node.col_offset == 0 or packages <= OPTIONAL, f"{path.name}:{node.lineno}"
