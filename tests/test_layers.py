"""Who may import whom (docs/architecture.md): a module that reaches upward fails."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bids_alsmri"

# our modules and outside packages that each part of the tree may import; the standard library is
# always allowed. Longest matching key wins.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "version": (set(), set()),
    "environment": (set(), set()),
    "data": (set(), set()),
    "options": ({"errors"}, {"pydantic"}),
    "settings": ({"errors", "options"}, {"pydantic"}),
    "numerics": ({"errors"}, {"numpy", "scipy", "numba", "dipy"}),
    "stats": ({"errors", "numerics"}, {"numpy", "scipy", "pandas", "statsmodels"}),
    # a command of its own, for people without BIDS
    "stats.__main__": (
        {"errors", "numerics", "stats", "interfaces.base"},
        {"numpy", "nibabel", "fsl"},
    ),
    "bids": ({"errors"}, {"bids", "pandas"}),
    "spaces": ({"errors", "bids"}, {"numpy", "scipy", "nibabel", "nilearn", "templateflow", "fsl"}),
    "reports": (
        {"errors"},
        {"numpy", "pandas", "nibabel", "matplotlib", "nilearn", "jinja2", "markupsafe"},
    ),
    "interfaces": (
        {"errors", "version", "numerics", "bids", "spaces", "reports.figures"},
        {"nipype", "nibabel", "ants", "pandas", "numpy", "scipy"},
    ),
    "engine": (
        {"errors", "options", "bids", "interfaces.outputs", "pipelines"},
        {"nipype", "rich", "jinja2", "yaml"},
    ),
    "pipelines": ({"errors", "options", "engine", "interfaces", "bids"}, {"pydantic"}),
    "pipelines.*.workflow": ({"errors", "engine", "interfaces", "bids"}, set()),
    # which files belong to what, as names tell
    "pipelines.*.sites": ({"errors", "engine", "interfaces", "bids"}, set()),
    "pipelines.*.visits": ({"errors", "bids"}, set()),
    "pipelines.*.pipeline": ({"errors", "options", "engine"}, {"pydantic"}),
    "comparisons": (
        {
            *("errors", "options", "settings", "numerics", "stats", "bids", "spaces"),
            *("interfaces", "reports"),
        },
        {"numpy", "scipy", "pandas", "nibabel", "nipype", "statsmodels"},
    ),
    "comparisons.settings": ({"options", "settings"}, {"pydantic"}),
    "phantom": (
        {"errors", "bids", "spaces", "version"},
        {"numpy", "scipy", "nibabel", "nilearn"},
    ),
}
# the pipeline's own computing modules
COMPUTING = (
    {"errors", "interfaces", "numerics", "spaces", "reports.figures", "reports.cortex"},
    {"numpy", "scipy", "pandas", "nibabel", "nipype", "matplotlib", "dipy"},
)
# may import all of ours
TOP = {
    "adoption",
    "planning",
    "participant",
    "summary",
    "collection",
    "group_planning",
    "group_graphs",
    "group_summary",
    "group_pictures",
    "group_tables",
    "group",
    "cli",
    "descriptor",
    "__main__",
    "__init__",
}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def rule_for(path: Path) -> tuple[str, set[str], set[str]] | None:
    name = ".".join(path.with_suffix("").parts)
    part = path.parts[0] if len(path.parts) > 1 else path.stem
    if name in TOP:
        return None
    if part == "pipelines" and len(path.parts) == 3:
        own = f"pipelines.{path.parts[1]}"
        key = f"pipelines.*.{path.stem}"
        ours, outside = ALLOWED.get(key, COMPUTING)
        return name, {*ours, own}, outside
    ours, outside = ALLOWED.get(name, ALLOWED[part])
    return name, {*ours, part}, outside


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_module_imports_only_from_layers_below(path: Path) -> None:
    import sys

    rule = rule_for(path)
    if rule is None:
        return
    name, ours, outside = rule
    for imported in imports_of(path):
        root = imported.partition(".")[0]
        if root == "bids_alsmri":
            inner = imported.removeprefix("bids_alsmri").lstrip(".")
            allowed = not inner or any(re.match(rf"{re.escape(o)}(\.|$)", inner) for o in ours)
            assert allowed, f"{name} may not import {imported}"
        else:
            known = root in sys.stdlib_module_names or root in outside
            assert known, f"{name} may not import {imported}"


def test_numerics_never_opens_a_file() -> None:
    for path in (PACKAGE / "numerics").glob("*.py"):
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        # the one exception writes an empty file to find out whether numba may cache
        assert "open" not in calls, path.name
