"""What another package announces is used like unreel's own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import make_pair

from unreel import FewShotConfig, UnreelError, load_intervention, unlearn
from unreel.cli.app import settings_of_methods
from unreel.interventions.base import Intervention
from unreel.interventions.prompt import PromptIntervention
from unreel.methods import available, configure, load_method, names, option
from unreel.plugins import Registry

EXAMPLE = Path(__file__).parents[1] / "examples" / "unreel_example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process where the example is installed."""
    pytest.importorskip("hatchling")
    site = tmp_path_factory.mktemp("site")
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", site, EXAMPLE], check=True)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *sys.path[1:]])}


EACH = """
import io, json, sys
from contextlib import redirect_stdout
from unreel import cli
said = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["unreel", *command]
    with redirect_stdout(io.StringIO()) as out:
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise
    said.append(out.getvalue())
print(json.dumps(said))
"""  # one process, since each imports all of torch and diffusers


def test_a_package_adds_a_method_a_judge_an_attack_and_a_metric(installed, tmp_path):
    pair = make_pair()
    pair.t2i.save_pretrained(tmp_path / "t2i")
    pair.t2v.save_pretrained(tmp_path / "t2v")
    models = ["--t2v", "t2v", "--frames", "4"]

    learn = ["unlearn", "cat", "--method", "polite-refusal", "--word", "flower", "--videos", "0", "--out", "made"]
    options = [*models, "--judge", "brightness", "--steps", "1", "--videos", "2", "--group", "explicit"]
    more = [*models, "--t2i", "t2i", "--judge", "brightness", "--video-steps", "1", "--cases", "1", "--budget", "1"]
    commands = [
        [*learn, "--t2v", "t2v"],
        ["evaluate", "made", *options],
        ["attack", "made", *more, "--attack", "shouting"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps([[*command, "--quiet", "--json"] for command in commands])],
        cwd=tmp_path,
        env=installed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made, found, attacks = map(json.loads, json.loads(done.stdout))
    assert [(part["method"], part["anchor"]) for part in made["concepts"]] == [("polite-refusal", "flower")]
    assert (
        found["judge"]["name"] == "brightness judge"
        and 0 < found["figures"]["explicit"]["brightness"]["edited"]["value"] < 1
    )
    assert attacks["attacks"]["shouting"]["edited_attempts"][0][0]["prompt"].isupper()


def test_what_is_unknown_or_broken_is_refused_and_nobody_stands_in_for_unreels_own(monkeypatch):
    class Point:
        def __init__(self, name):
            self.name, self.value = name, "somewhere"

        def load(self):
            raise ImportError("nothing is here")

    monkeypatch.setattr("unreel.plugins.entry_points", lambda group: [Point("broken"), Point("few-shot")])
    assert "broken" in names() and names().count("few-shot") == 1
    assert load_method("few-shot").__name__ == "unreel.methods.few_shot"
    with pytest.warns(UserWarning, match="it is left out"):
        assert "broken" not in available() and configure("few-shot", {}) == FewShotConfig()  # it is in nobody's way
    with pytest.raises(UnreelError, match="the method broken of somewhere cannot be loaded: nothing is here"):
        load_method("broken")
    with pytest.raises(UnreelError, match="unknown spell 'x': choose from broken, few-shot"):
        Registry("spells", [], "spell", ()).load("x")


@dataclass(frozen=True)
class Fine:
    rank: int = 1
    seed: int = option(0, "a seed of its own")


@dataclass(frozen=True)
class OfAnotherType:
    rank: str = option("high", "a rank in words")


@dataclass(frozen=True)
class WithoutDefault:
    rank: int


@dataclass(frozen=True)
class OfNoType:
    rank: "Nonsense" = 1  # noqa: F821


def announced(monkeypatch, **offers):
    """Another package's method, `odd`."""
    module = SimpleNamespace(NEEDS="text", AS_PUBLISHED=True, learn=None, **offers)
    point = SimpleNamespace(name="odd", value="somewhere", load=lambda: module)
    monkeypatch.setattr("unreel.plugins.entry_points", lambda group: [point])


@dataclass(frozen=True, eq=False, repr=False)
class Guard(PromptIntervention):
    KIND = "my-guard"

    @property
    def identity(self):
        return f"my guard of {self.provenance['parts'][0]['concept']}"

    def change(self, arguments, before=()):
        pass


@pytest.mark.parametrize(
    ("kind", "says"), [(Guard, ""), (Fine, "it has no KIND"), (SimpleNamespace(KIND=""), "it is no dataclass")]
)
def test_a_kind_of_intervention_that_is_announced_is_loaded(monkeypatch, tmp_path, pair, kind, says):
    record = unlearn("cat", pair, configure("negative-prompt", {})).provenance
    home = Guard(record).save_pretrained(tmp_path / "guard")
    with pytest.raises(UnreelError, match="holds a 'my-guard', which neither this version of unreel nor an installed"):
        load_intervention(home)
    point = SimpleNamespace(name="my-guard", value="somewhere", load=lambda: kind)
    points = {"unreel.interventions": [point]}
    monkeypatch.setattr("unreel.plugins.entry_points", lambda group: points.get(group, []))
    if says:
        with pytest.raises(UnreelError, match=f"the intervention my-guard of somewhere cannot be used: .*{says}"):
            load_intervention(home)
        return
    loaded = load_intervention(home)
    assert type(loaded) is Guard and loaded == Guard(record) and loaded.provenance == record


def test_what_a_method_makes_has_to_take_a_record(monkeypatch, pair):
    """Seconds and memory are put into it."""

    class Bare(Intervention):
        edits_text_encoder, provenance = False, {"parts": []}
        identity = nbytes = about = limits = require_matching = apply = remove = save_pretrained = None

    announced(monkeypatch, Config=Fine)
    monkeypatch.setattr(load_method("odd"), "learn", lambda task, config: Bare())
    with pytest.raises(UnreelError, match="the method odd made a Bare, which is no Intervention that is a frozen"):
        unlearn("cat", pair, Fine())


def test_the_help_of_a_setting_says_whose_it_is_and_its_defaults(monkeypatch):
    def told(name):
        kind, _ = settings_of_methods().options[name]
        return kind.__metadata__[0].help

    assert told("shots") == "adv-unlearn, concept-ablation, few-shot: images to generate. Default: 4"
    assert told("retain_weight").endswith(
        ". Default: text-ablation 90; adv-unlearn 0.5; concept-ablation 10; t2v-unlearning 1"
    )
    assert "few-shot 1e-5" in told("learning_rate").replace("adv-unlearn, concept-ablation, ", "")
    assert "Default" not in told("gradient_checkpointing")
    assert not [name for name in settings_of_methods().options if "its setting of that name" in told(name)]
    announced(monkeypatch, Config=Fine)
    assert "odd: its setting of that name" in told("rank") and "odd 1" in told("rank")


def test_a_setting_of_another_type_than_others_of_its_name_is_refused(monkeypatch):
    announced(monkeypatch, Config=OfAnotherType)
    with pytest.raises(
        UnreelError, match="setting rank is of type int in the method text-ablation, but str in odd: rename"
    ):
        settings_of_methods()


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        ({"Config": None}, "its Config is no dataclass"),
        ({"Config": FewShotConfig}, "its Config is that of another method"),
        ({"Config": WithoutDefault}, "its settings have no defaults: rank"),
        ({"Config": OfNoType}, "the types of its settings cannot be read"),
        ({}, "it has no Config"),
    ],
)
def test_a_method_that_is_unsound_is_in_nobodys_way_and_says_why(monkeypatch, offered, reason):
    announced(monkeypatch, Config=Fine)
    assert "odd" in available() and "seed" not in settings_of_methods().options  # `unlearn` has a seed already
    announced(monkeypatch, **offered)
    with pytest.warns(UserWarning, match=f"odd of somewhere cannot be used: {reason}.*: it is left out"):
        assert "odd" not in available()
    with pytest.raises(UnreelError, match=reason):
        load_method("odd")
