"""What the documentation site makes from the code: the reference of the command line, of the Python API and of papers.

Links that lead out of docs/ name files of the repository; on the site they become the names alone.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unreel"
OUT_OF_DOCS = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")
CITED = re.compile(r"arXiv (\d{4}\.\d{4,5})")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code."""
    for name, content in {"cli": command_line(), "python": python_api(), "papers": papers()}.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Takes links out of docs/ away."""
    up = "../" * page.file.src_uri.count("/")

    def link(match: re.Match) -> str:
        text, target = match[1], match[2].removeprefix(up) if up else match[2]
        if not target.startswith("../"):
            return match[0]
        return text

    return OUT_OF_DOCS.sub(link, markdown)


def command_line() -> str:
    """Every command with its options, as `--help` has them."""
    import typer

    from unreel import cli

    group = typer.main.get_command(cli.app)
    lines = ["# Command line", "", "What `unreel COMMAND --help` says, in one page.", ""]
    for name in group.commands:  # type: ignore[attr-defined]
        _, command, _ = group.resolve_command(None, [name])  # type: ignore[attr-defined, arg-type]
        lines += [f"## unreel {name}", "", *(command.help or "").splitlines(), "", *_options(command), ""]
    return "\n".join(lines)


def _options(command: Any) -> list[str]:
    rows = ["| option | | default |", "| --- | --- | --- |"]
    for each in command.params:
        if getattr(each, "hidden", False) or each.name == "help":
            continue
        said = " ".join(f"`{flag}`" for flag in each.opts) if each.param_type_name == "option" else f"`{each.name.upper()}`"
        given = each.default if each.default not in (None, False, (), "") and not callable(each.default) else ""
        usual = f"`{getattr(given, 'value', given)}`" if given != "" else ""
        about = (getattr(each, "help", "") or "").replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| {said} | {about} | {usual} |")
    return rows


def python_api() -> str:
    """Everything that `import unreel` offers, and the modules that services and tools use."""
    import unreel

    named = [f"::: unreel.{unreel._HOME[name]}.{name}" for name in unreel.__all__]
    modules = ("workflow", "batch", "service", "progress", "unlearning", "checking", "interventions.export")
    return "\n\n".join(
        [
            "# Python",
            "`from unreel import ...` offers these:",
            *named,
            "# Modules for tools of your own",
            *(f"::: unreel.{module}" for module in modules),
        ]
    )


def papers() -> str:
    """Which published work the code follows, and where."""
    cited: dict[str, set[str]] = defaultdict(set)
    for file in sorted(SOURCE.rglob("*.py")):
        for text in _prose(file):
            for number in CITED.findall(text):
                cited[number].add(str(file.relative_to(SOURCE)))
    rows = [
        f"| [arXiv {number}](https://arxiv.org/abs/{number}) | {', '.join(f'`{file}`' for file in sorted(files))} |"
        for number, files in sorted(cited.items())
    ]
    head = "# Papers\n\nEvery published work that the code says it follows, with the module that says how."
    return "\n".join([head, "", "| work | module |", "| --- | --- |", *rows, ""])


def _prose(file: Path) -> list[str]:
    """The docstrings and comments of a module."""
    text = file.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    return [*docs, *re.findall(r"#.*", text)]
