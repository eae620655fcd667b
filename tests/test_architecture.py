"""The house keeps its plan: docs/architecture.md says which part may know which, and these tests read it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import unreel

SOURCE = Path(unreel.__file__).parent
ROOT = SOURCE.parents[1]
MODULES = {
    ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in SOURCE.rglob("*.py")
}
LONGEST = 60  # lines of a function, its docstring among them


def layers() -> list[set[str]]:
    """From the table of docs/architecture.md, the lowest first."""
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


def imported(file: Path) -> set[str]:
    """The modules of unreel that a module imports, wherever in it; not those that only type checkers read."""
    tree = ast.parse(file.read_text())
    checked_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unreel" and node not in checked_only:
            for name in node.names:
                submodule = f"{node.module}.{name.name}"
                found.add(submodule if submodule in MODULES else node.module)
    return found


def part(module: str) -> str:
    return [*module.split("."), ""][1] or "__init__"


def test_no_module_imports_one_above_it():
    places = {name: place for place, names in enumerate(layers()) for name in names}
    assert set(places) == {part(module) for module in MODULES} - {"__init__"}
    above = [
        f"{module} imports {other}"
        for module, file in MODULES.items()
        for other in imported(file)
        if "__init__" not in (part(module), part(other)) and places[part(other)] > places[part(module)]
    ]
    assert not above


def test_prompts_are_words_alone():
    for module, file in MODULES.items():
        if part(module) == "prompts":
            text = file.read_text()
            assert not re.search(r"^\s*(import|from) (torch|numpy|transformers|diffusers)\b", text, re.MULTILINE), module


def test_imports_go_round_in_no_circle():
    reached: dict[str, set[str]] = {}

    def visit(module: str, path: tuple[str, ...]) -> set[str]:
        assert module not in path, " -> ".join([*path, module])
        if module not in reached:
            reached[module] = set().union(*({other} | visit(other, (*path, module)) for other in imported(MODULES[module])))
        return reached[module]

    for module in MODULES:
        if part(module) != "__init__":
            visit(module, ())


def test_what_the_package_offers_is_there_and_nothing_else_is_listed():
    assert dir(unreel) == sorted([*unreel.__all__, "__version__"])
    for name in unreel.__all__:
        assert getattr(unreel, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = unreel.magic


def test_only_models_looks_into_pipelines():
    for module, file in MODULES.items():
        if part(module) not in ("models", "cli", "__init__"):  # the command line looks into commands
            assert "inspect.signature(" not in file.read_text(), module


@pytest.mark.parametrize("file", MODULES.values(), ids=MODULES)
def test_functions_are_short(file):
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    assert not [each.name for each in functions if each.end_lineno - each.lineno + 1 >= LONGEST]


# What is added is one file, or one entry in one file, of the package; a copy of it is looked at by the command line.
ADDED = {
    "methods/shrug.py": '''"""Does nothing."""
from dataclasses import dataclass
from unreel.interventions.prompt import NegativePrompt
NEEDS, AS_PUBLISHED = "text", True
@dataclass(frozen=True)
class ShrugConfig:
    pass
Config = ShrugConfig
def learn(task, config):
    return NegativePrompt("", task.record(config))
''',
    "judges/blind.py": "def load(argument='', device='cpu'):\n    return 'blind'\n",
    "attacks/begging.py": "NEEDS_WEIGHTS = False\ndef attempt(case, index, seed):\n    return f'please, {case.prompt}'\n",
    "metrics/length.py": "def measure(run):\n    yield from ()\n",
    "prompts/kinds.py": (
        'Literal["object",',
        'Literal["smell", "object",',
        '    "object": replace(',
        '    "smell": _OBJECT,\n    "object": replace(',
    ),
    "models/families.py": ("FAMILIES = (\n", 'FAMILIES = (\n    Family("Tomorrow", "A reader", ("TomorrowPipeline",)),\n'),
}
LOOK = """
import json
from unreel.attacks import names as attacks
from unreel.judges import load_judge
from unreel.methods import available
from unreel.metrics import names as metrics
from unreel.models.families import known
from unreel.prompts.concept import Concept
print(json.dumps({
    "method": "shrug" in available(), "judge": load_judge("blind"), "attack": "begging" in attacks(),
    "metric": "length" in metrics(), "family": known("TomorrowPipeline")[0].name,
    "kind": Concept("roses", "smell").traits.templates[0],
}))
"""


def test_what_is_added_touches_one_file(tmp_path):
    home = tmp_path / "unreel"
    shutil.copytree(SOURCE, home, ignore=shutil.ignore_patterns("embedded", "__pycache__"))
    for name, change in ADDED.items():
        file = home / name
        if isinstance(change, str):
            file.write_text(change)
            continue
        text = file.read_text()
        for old, new in zip(change[::2], change[1::2], strict=True):
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        file.write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "method": True,
        "judge": "blind",
        "attack": True,
        "metric": True,
        "family": "Tomorrow",
        "kind": "a photo of a {}",
    }
