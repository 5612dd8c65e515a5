"""Commands that look at a run, where the surroundings are odd: a locale without the picture's characters, no output, a
status of another version, a target that is no file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from watched_folder import watched

from orchestrator.folder import RunFolder

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    return watched(tmp_path_factory.mktemp("odd"))


def headrace(*arguments: str | Path, **kept: object) -> subprocess.CompletedProcess[str]:
    code = "from orchestrator.entry import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120}
    return subprocess.run(command, **(pipes | kept))  # type: ignore[call-overload,no-any-return]


def test_a_locale_without_the_pictures_characters_ends_no_command(folder, tmp_path):
    page = tmp_path / "report.html"
    done = headrace("report", folder.path, "--out", page, env=os.environ | ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    assert not page.read_text(encoding="utf-8").isascii()


def test_half_a_surrogate_pair_in_a_log_is_shown(folder):
    line = {"time": "2026-05-01T09:30:00+00:00", "level": "info", "worker": "odd-0", "event": "said \ud800 so"}
    (folder.logs / "odd-0.jsonl").write_text(json.dumps(line) + "\n")
    done = headrace("logs", folder.path, "--worker", "odd-0")
    (folder.logs / "odd-0.jsonl").unlink()
    assert (done.returncode, done.stderr) == (0, "")
    assert "so" in done.stdout


def test_without_any_standard_output_a_command_still_ends_well(folder):
    done = headrace("top", folder.path, stdout=None, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("out", ["/dev/null", "."])
def test_a_report_replaces_nothing_that_is_no_file(folder, out):
    done = headrace("report", folder.path, "--out", out)
    assert done.returncode == 2
    assert f"--out = {out}: is no file; remedy" in done.stderr
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("command", ["top", "status"])
def test_a_status_of_another_version_is_named(folder, command):
    kept = folder.status.read_text()
    folder.status.write_text(json.dumps(json.loads(kept) | {"workers": [1], "streams": {"prompts": [1]}}))
    done = headrace(command, folder.path)
    folder.status.write_text(kept)
    assert done.returncode == 2
    assert "status.json" in done.stderr
    assert "remedy" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_cannot_be_read_is_named_in_a_line(folder):
    kept = folder.status.read_text()
    folder.status.unlink()
    folder.status.mkdir()
    done = headrace("status", folder.path)
    folder.status.rmdir()
    folder.status.write_text(kept)
    assert done.returncode == 1
    assert done.stderr.startswith(f"headrace: {folder.status}: Is a directory; remedy: ")


def test_half_an_address_of_a_collector_is_named(folder):
    from orchestrator.trace.otlp import endpoint

    with pytest.raises(ValueError, match="--otlp: is no address of a collector"):
        endpoint("http://[::1")
