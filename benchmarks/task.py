"""The demo's task, ready to run: for benchmarks of what is around a model, not of the model."""

from pathlib import Path


def prepare(folder: Path) -> None:
    """`policy`, a model of 0.43 M drawn parameters, and `prompts.jsonl`."""
    from orchestrator.logs import hush_libraries

    hush_libraries()
    from recipes import reverse
    from train_cluster.model import load_policy, published_parameters, save_folder

    reverse.write_model(folder / "model")
    policy = load_policy(folder / "model", random_init=True, seed=0)
    tensors = {name: parameter.detach() for name, parameter in published_parameters(policy).items()}
    save_folder(folder / "policy", folder / "model", tensors)
    reverse.write_rows(folder / "prompts.jsonl", reverse.data(seed=0)["train"])
