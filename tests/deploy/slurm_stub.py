"""Stand-ins for what headrace.sbatch calls: Slurm's commands start local processes, Ray only waits to be ended, and a run is a
process that ends when told to. What they were told goes into a file, a line each."""

import os
import stat
import subprocess
import sys
from pathlib import Path

SRUN = """
nodes=""
while [[ $1 == --* ]]; do case $1 in --nodelist=*) nodes=${1#*=};; esac; note "srun $1"; shift; done
SLURMD_NODENAME=$nodes SLURM_CPUS_ON_NODE=6 exec "$@"
"""
SCONTROL = """
case $1 in show) tr , '\\n' <<<"$3";; requeue) note "requeue $2";; esac
"""
RAY = """
note "ray $*"
trap 'note "ray ended"; exit 0' TERM
while :; do sleep 0.1; done
"""
HEADRACE = """
note "headrace $*"
for word; do case $word in run.root=*) root=${word#*=};; esac; done
if [[ $* == *--dry-run* ]]; then echo '{"run": "trial"}'; exit; fi
mkdir -p "$root/trial" && touch "$root/trial/recipe.yaml"
[[ $* != *run.steps=0* ]] || exit 3
trap 'note "run stopped"; exit 0' TERM
note "run lives"
while :; do sleep 0.1; done
"""
PYTHON = """
[[ $1 == - ]] || exec {python} "$@"
until (($(grep -c '^ray start' "{notes}") == $3)); do sleep 0.05; done
"""
PROGRAMS = {"srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "headrace": HEADRACE, "python3": PYTHON}


class Slurm:
    """One job after the other, under the same number, as a requeued one has."""

    def __init__(self, folder: Path, *, script: Path, redis: str, port: int, nodes: str) -> None:
        self.folder, self.port, self.notes = folder, port, folder / "notes"
        self._jobs: list[subprocess.Popen[str]] = []
        programs = folder / "bin"
        programs.mkdir()
        for name, body in PROGRAMS.items():
            file = programs / name
            note = f'note() {{ echo "$*" >>"{self.notes}"; }}\n'
            file.write_text(
                "#!/usr/bin/env bash\n"
                + note
                + body.replace("{python}", sys.executable).replace("{notes}", str(self.notes))
            )
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        (programs / "redis-server").symlink_to(redis)
        self._script = script
        self._environment = {
            **{name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")},
            "PATH": f"{programs}:/usr/bin:/bin",
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": nodes,
            "SLURM_SUBMIT_DIR": str(folder),
            "HEADRACE_REDIS_PORT": str(port),
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        self.notes.write_text("")
        command = ["bash", str(self._script), *arguments]
        # Without a pipe: what a job leaves running would keep it open.
        job = subprocess.Popen(command, env=self._environment | environment, text=True, cwd=self.folder)
        self._jobs.append(job)
        return job

    def close(self) -> None:
        """End the jobs that a failed test left."""
        for job in self._jobs:
            job.terminate()
            job.wait()

    def told(self) -> list[str]:
        return self.notes.read_text().splitlines()
