#!/usr/bin/env bash
# Tag a release after building it and trying what was built: make release.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
version=$("$python" -c 'import unreel; print(unreel.__version__)')

refuse() { echo "release: $1" >&2; exit 2; }
[ -z "$(git status --porcelain)" ] || refuse "there are changes that are not committed"
git rev-parse -q --verify "refs/tags/v$version" >/dev/null && refuse "v$version is tagged already: raise __version__"
grep -q "^## $version" CHANGELOG.md || refuse "CHANGELOG.md has no section for $version"
grep -q "^version: $version" CITATION.cff || refuse "CITATION.cff has another version than $version"
make check test

rm -rf dist
"$python" -m build --outdir dist .
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "release: the quick tests of the sdist"
tar -xf "dist/unreel-$version.tar.gz" -C "$work"
source="$work/unreel-$version"
(cd "$source" && PYTHONPATH="$source/src" "$python" -m pytest --quick --numprocesses auto --maxprocesses 4 -q)

echo "release: the wheel in an empty environment"
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --constraint constraints.txt torch
"$work/venv/bin/pip" install --quiet --constraint constraints.txt "dist/unreel-$version-py3-none-any.whl"
(cd "$work" && venv/bin/unreel --version && venv/bin/unreel unlearn "Tokyo Tower" --videos 1 --out erasure && venv/bin/unreel generate "a castle" --erasure erasure)

[ -z "$(git status --porcelain)" ] || refuse "something changed meanwhile"
git tag "v$version"
echo "release: tagged v$version; push it with: git push origin v$version"
