"""Nothing in the package imports upwards."""

import ast
from pathlib import Path

from conftest import on_host

import smcsock

PACKAGE = Path(smcsock.__file__).parent

LAYERS = (
    {"_smcsock"},
    {"_kernel"},
    {"_errors", "_opening", "_options", "_plain", "_socket"},
    {"_helpers", "_ssl", "aio"},
    {"_dropin"},
    {"_native"},
    {"diag"},
    {"doctor"},
    {"_bench", "_metrics"},
    {"_cli"},
)
"""As CONTRIBUTING.md has them, lowest first."""

HEIGHTS = {name: height for height, names in enumerate(LAYERS) for name in names}


def imported(file: Path) -> set[str]:
    """The modules and packages right below smcsock that a file imports, anywhere in it."""
    found = set()
    depth = len(file.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {name.partition(".")[0] for name in names}
    return found


@on_host
def test_nothing_imports_upwards() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "_dropin/_site"]
    seen = 0
    for file in files:
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported(file) & HEIGHTS.keys() if own in HEIGHTS else set():
            assert HEIGHTS[name] <= HEIGHTS[own], f"{file.relative_to(PACKAGE)} imports {name}"
            seen += 1
    assert seen
