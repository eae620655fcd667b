"""The documentation site is whole: every link leads somewhere, and what is made from the code is there."""

import os
import re
import subprocess
import sys

import pytest

from unreel import __all__ as public
from unreel import cli
from unreel.models.shipped import EMBEDDED_FOLDER

ROOT = EMBEDDED_FOLDER.parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert run.returncode == 0 and "WARNING" not in run.stderr, run.stderr
    return folder


def test_every_document_is_in_it_and_no_link_of_it_is_broken(site):
    for document in (ROOT / "docs").rglob("*.md"):
        page = site / document.relative_to(ROOT / "docs").with_suffix(".html")
        text = page.read_text()
        assert "<h1" in text
        for target in re.findall(r'(?:href|src)="([^"#]+)', text):
            if not re.match(r"https?:|data:|mailto:", target):
                assert (page.parent / target).resolve().exists(), f"{document.name}: {target}"


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not re.search(r'<(?:script|img|link)\b[^>]*(?:src|href)="https?:', page.read_text()), page.name


def test_the_reference_has_every_command_and_every_public_name(site):
    from typer.main import get_command

    commands, python = ((site / "reference" / f"{name}.html").read_text() for name in ("cli", "python"))
    for name in get_command(cli.app).commands:
        assert f"unreel {name}<" in commands
    assert "--learning-rate" in commands  # options of methods too
    for name in public:
        assert re.search(rf'id="unreel\.[\w.]*\.?{name}"', python), name
    assert "2407.14209" in (site / "reference" / "papers.html").read_text()
