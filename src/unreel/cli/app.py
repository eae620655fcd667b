"""The program itself: how its commands are found, and the options of methods, which are read when one is called.

Knows of a command only that it is one.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from unreel.cli.options import LEARNED, Group, grouped
from unreel.cli.output import quieten
from unreel.errors import UnreelError


def _version(wanted: bool) -> None:
    if wanted:
        from unreel import __version__

        typer.echo(f"unreel {__version__}")
        raise typer.Exit


def settings_of_methods() -> Group:
    """The settings of all methods as options; a setting that nobody gives is left to the method. A setting called like
    another parameter of a command can be given from Python only.

    Raises UnreelError if methods have settings of the same name and of different types.
    """
    from typing import get_type_hints

    from unreel.methods import available

    taken = {name for command in _LEARNING.values() for name in inspect.signature(command).parameters}
    configs = {name: module.Config for name, module in available().items()}
    settings = {method: {each.name: each for each in dataclasses.fields(config)} for method, config in configs.items()}
    named = dict.fromkeys(name for of in settings.values() for name, each in of.items() if "help" in each.metadata)
    options = {}
    for name in (each for each in named if each not in taken):
        having = {method: of[name] for method, of in settings.items() if name in of}
        hints = {method: get_type_hints(configs[method])[name] for method in having}
        kinds = {method: hint if hint in (bool, int, float) else str for method, hint in hints.items()}
        kind = next(iter(kinds.values()))
        for method, other in kinds.items():
            if other is not kind:
                raise UnreelError(
                    f"the setting {name} is of type {kind.__name__} in the method {next(iter(kinds))}, but "
                    f"{other.__name__} in {method}: rename it there, or uninstall the package that brings {method}"
                )
        flags = [f"--{name.replace('_', '-')}"] if kind is bool else []  # and no --no-...
        option = typer.Option(*flags, help=_help_of(having), show_default=False, rich_help_panel=LEARNED)
        options[name] = (Annotated[kind | None, option], None)
    return Group(lambda **chosen: {name: value for name, value in chosen.items() if value is not None}, options)


def _help_of(settings: Mapping[str, dataclasses.Field]) -> str:
    """What a setting does, and its default, in each of the methods that have it."""
    helps: dict[str, list[str]] = {}
    defaults: dict[str, list[str]] = {}
    for method, setting in settings.items():
        helps.setdefault(setting.metadata.get("help", "its setting of that name"), []).append(method)
        value = setting.default if setting.default_factory is dataclasses.MISSING else setting.default_factory()
        text = f"{value:g}" if isinstance(value, float) else str(value)
        defaults.setdefault(text.replace("e-0", "e-"), []).append(method)
    about = "; ".join(f"{', '.join(methods)}: {help}" for help, methods in helps.items())
    if set(defaults) == {"False"}:  # a flag
        return about
    each = [text if len(defaults) == 1 else f"{', '.join(methods)} {text}" for text, methods in defaults.items()]
    return f"{about}. Default: {'; '.join(each)}"


def _plainly(params: list[Any]) -> list[Any]:
    """The options, with flags that show no value in --help: some releases of typer put <bool> after them."""
    for each in params:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return params


class Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plainly(super().get_params(ctx))


class _Commands(TyperGroup):
    """Gives commands that unlearn the options of all methods when one is called, and not before: to know them takes
    seconds.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        return _plainly(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in _LEARNING:
            quieten(bool({"--quiet", "-q"} & set(rest)))  # before what draws bars is imported
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(name, cls=Command)(grouped(inspect.unwrap(_LEARNING[name]), settings=settings_of_methods()))
            command = typer.main.get_command(alone)
        return name, command, rest


_LEARNING: dict[str, Callable[..., None]] = {}  # commands whose options come from methods too

app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make a text-to-video model forget a concept: by changing its text encoder (the default), its denoiser, or how "
    "prompts are read.",
)


@app.callback()
def program(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    pass


def learning_command(command: Callable[..., None]) -> Callable[..., None]:
    """A command that unlearns: it has the settings of methods as options too, which its parameter `settings` gets."""
    _LEARNING[command.__name__] = grouped(command)
    return app.command()(_LEARNING[command.__name__])
