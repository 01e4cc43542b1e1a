"""The house: what the files around the package promise is true."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from notebook_rules import ABSOLUTE_PATH, link_problems

import reidlab
from reidlab.lessons.contents import catalogue, table
from reidlab.results import MINIMUM

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = sorted((REPOSITORY / "reidlab").rglob("*.py"))
PAPERS = (REPOSITORY / "references.bib").read_text(encoding="utf-8")


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


def committed() -> list[Path]:
    """What git keeps, or would keep after `git add`."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git clone, or no git here: what is committed cannot be told")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    paths = [REPOSITORY / name for name in names.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_environment_yml_leaves_the_list_to_pyproject():
    environment = yaml.safe_load(read("environment.yml"))
    python, pip, inner = environment["dependencies"]
    assert python == f"python{project()['requires-python']}" and pip == "pip"
    (editable,) = inner["pip"]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", editable)[1].split(",")
    assert set(extras) <= set(project()["optional-dependencies"]) and {"lessons", "test"} <= set(extras)


def test_minimum_versions_are_those_of_pyproject():
    needs = project()["dependencies"] + project()["optional-dependencies"]["lessons"]
    floors = dict(re.fullmatch(r"([\w-]+)>=([\d.]+).*", need).groups() for need in needs)
    assert {name: floors[name] for name in MINIMUM} == MINIMUM


def test_version_is_said_once_and_repeated_truly():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert str(citation["version"]) == reidlab.__version__
    assert citation["license"] == project()["license"]["text"] == "Apache-2.0"


def test_licences():
    assert "Apache License" in read("LICENSE") and "END OF TERMS AND CONDITIONS" in read("LICENSE")
    assert "Attribution 4.0 International" in read("LICENSE-lessons")


def test_committed_files_are_small_and_name_no_machine():
    for path in committed():
        name = path.relative_to(REPOSITORY)
        limit = 4_000_000 if "weights" in name.parts else 1_000_000
        assert path.stat().st_size <= limit, f"{name} has {path.stat().st_size} bytes, allowed are {limit}"
        if (
            path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".cff", ".cfg", ".bib", ""}
            and name.parts[0] != "tests"
        ):
            hit = ABSOLUTE_PATH.search(path.read_text(encoding="utf-8", errors="ignore").removeprefix("#!/usr/bin/env"))
            assert hit is None, f"{name} names an absolute path: {hit.string[hit.start() : hit.start() + 50]!r}"


def test_data_and_worlds_are_not_committed():
    names = {path.relative_to(REPOSITORY).as_posix() for path in committed()}
    assert {name for name in names if name.startswith("data/")} == {"data/README.md"}
    assert not [name for name in names if name.endswith((".mat", ".h5", ".pth", ".pt"))]


def test_readme_has_the_table_of_lessons():
    assert table(catalogue()) in read("README.md")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "data/README.md"])
def test_links_resolve(name: str):
    assert link_problems(read(name), (REPOSITORY / name).parent) == []


def test_make_targets_are_described_and_exist():
    makefile = read("Makefile")
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())
    described = set(re.findall(r"^([a-z0-9]+):.* ## \S", makefile, re.MULTILINE))
    assert phony == described and {"lessons", "test", "lab", "refresh", "lint", "clean", "help"} <= described
    for name in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"`make ([a-z0-9]+)", read(name))) <= described, name


def test_ci_runs_the_tests():
    path = REPOSITORY / ".ci" / "run"
    assert os.access(path, os.X_OK)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines and lines[-1] == "make test"


def test_references_are_whole_and_unique():
    keys = re.findall(r"^@\w+\{([^,]+),$", PAPERS, re.MULTILINE)
    assert len(keys) == len(set(keys)) == PAPERS.count("\n@")
    for entry in re.split(r"\n(?=@)", PAPERS)[1:]:
        key = re.match(r"@\w+\{([^,]+),", entry)[1]
        assert entry.count("{") == entry.count("}"), key
        year = re.search(r"year\s*= \{(\d{4})\}", entry)[1]
        author = re.search(r"author\s*= \{(\w+),", entry)[1]
        assert re.search(r"title\s*= \{.+\}", entry) and re.search(r"(booktitle|journal)\s*= \{.+\}", entry), key
        assert key.startswith(author.lower() + year), key


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_files_are_short(path: Path):
    assert path.read_text(encoding="utf-8").count("\n") <= 400


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_the_package_does_not_print(path: Path):
    if "lessons" in path.parts or path.name == "cli.py":
        pytest.skip("the command line and the lessons talk to people")
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    assert [call.lineno for call in calls if getattr(call.func, "id", "") in ("print", "breakpoint", "input")] == []


@pytest.mark.parametrize(
    "module", ["reidlab", "reidlab.cli", "reidlab.walkers", "reidlab.data.matfile", "reidlab.lessons.runner"]
)
def test_importing_does_not_load_torch(module: str):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_training_does_not_load_the_renderer():
    code = "import reidlab.training, sys; sys.exit(any(name.startswith('reidlab.walkers') for name in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_the_embedded_world_is_used_by_few(path: Path):
    room = path.relative_to(REPOSITORY / "reidlab").parts[0]
    if room in ("walkers", "plots", "lessons", "cli.py"):
        pytest.skip("may use it")
    imports = (
        n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, (ast.Import, ast.ImportFrom))
    )
    names = [getattr(n, "module", None) or alias.name for n in imports for alias in n.names]
    assert [name for name in names if name.startswith("reidlab.walkers")] == []


def imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports at its top, those for types included, those inside functions not."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys() or {node.module}
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nodes += ast.iter_child_nodes(node)
    return found & modules.keys()


def test_no_import_cycles():
    names = {path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in PACKAGE}
    modules = {name.removesuffix(".__init__"): path for path, name in names.items()}
    arrows = {name: imported(path, modules) - {name} for name, path in modules.items()}
    assert sum(map(len, arrows.values())) > 200
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"{' <- '.join(error.args[1])}: move what both need below both, or into one of them")


def test_docstrings_point_to_lessons_that_are_there():
    named = {name for path in PACKAGE for name in re.findall(r"Taught in: (\S+)", path.read_text(encoding="utf-8"))}
    assert named and not [name for name in sorted(named) if not (REPOSITORY / name).is_file()]
