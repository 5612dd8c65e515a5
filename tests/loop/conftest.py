"""One small recipe of the real loop: real engine, real server, two ZeRO-3 ranks; prompts of the demo's task.

PPO with a critic, which is trained alone in the first step. Dropout, an adaptive KL coefficient, two epochs and two
mini-batches are on, since without them a forgotten generator or controller would not show in the weights.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from train_cluster.model import load_policy, published_parameters, save_folder

STEPS = 6
RECIPE = {
    "run": {"name": "small", "steps": STEPS, "root": "runs"},
    "model": {"path": "data/policy"},
    "data": {"path": "data/train.jsonl"},
    "generation": {
        "group_size": 4,
        "max_tokens": 12,
        "engine": {"max_sequences": 64, "max_model_tokens": 64, "dtype": "float32"},
    },
    "scoring": {
        "rewards": [{"name": "characters", "function": "score_cluster.functions:character_accuracy"}],
        "reference": {"precision": "float32"},
    },
    "training": {
        "ranks": 2,
        "dtype": "float32",
        "algorithm": {"critic": {"learning_rate": 1e-3, "warmup_steps": 1}},
        "attention_dropout": 0.1,
        "epochs": 2,
        "mini_batches": 2,
        "kl": {"coefficient": 0.05, "target_nats": 0.001},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
        "checkpoint": {"interval_steps": 2},
        "collective_timeout_s": 20,
    },
    "pacing": {"batch_groups": 4, "max_staleness": 2},
    "experience": {"lease_s": 10},
}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the task's data and `small.yaml`."""
    folder = tmp_path_factory.mktemp("loop")
    subprocess.run([sys.executable, "-m", "recipes.reverse", "prepare", "data"], cwd=folder, check=True)
    policy = load_policy(folder / "data/model", random_init=True, seed=0)
    tensors = {name: parameter.detach() for name, parameter in published_parameters(policy).items()}
    save_folder(folder / "data/policy", folder / "data/model", tensors)
    (folder / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder
