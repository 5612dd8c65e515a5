"""Answers of a model folder to chat prompts, sampled by plain vLLM in a process of its own.

    python -m recipes.sampling REQUEST.json ANSWERS.json

It shares no code with gen_cluster: what an exported folder says is checked by other means than it was trained with.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CPU_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: it loads in 10 s in place of 45 s
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
MAX_SEQUENCES = 64
"""In flight; more gain nothing on two cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One sampled response."""

    prompt: int
    """Index of its prompt."""
    text: str
    tokens: list[int]
    """[L], the stop token included"""
    logprobs: list[float]
    """[L] nats, under the folder that sampled it"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to draw from a folder, and which answers of another folder to give log-probs for."""

    folder: str
    prompts: list[str]
    system_prompt: str | None
    samples: int
    temperature: float
    max_tokens: int
    seed: int
    """Prompt i draws with seed + i."""
    score: list[Answer]


def draw(request: Request) -> tuple[list[Answer], list[list[float]]]:
    """The folder's answers, prompt by prompt, and its log-probs [L] of each answer in `request.score`."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "request.json"), Path(scratch, "answers.json")
        asked.write_text(json.dumps(asdict(request)))
        command = [sys.executable, "-m", "recipes.sampling", str(asked), str(answered)]
        subprocess.run(command, check=True, env={**os.environ, **CPU_SETTINGS})
        reply = json.loads(answered.read_text())
    return [Answer(**answer) for answer in reply["answers"]], reply["scored"]


def serve(asked: Path, answered: Path) -> None:
    """Answer one request file; runs in the child process."""
    from vllm import LLM, SamplingParams

    fields = json.loads(asked.read_text())
    request = Request(**{**fields, "score": [Answer(**answer) for answer in fields["score"]]})
    engine = LLM(
        model=request.folder,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=MAX_SEQUENCES,
        max_model_len=1024,
        enable_chunked_prefill=False,  # on CPU, vLLM ends at a seeded request whose prompt was read in part
    )
    prompts = [tokenise(engine.get_tokenizer(), text, request.system_prompt) for text in request.prompts]
    plans = [
        SamplingParams(
            n=request.samples,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            seed=request.seed + index,
            logprobs=0,  # 0 = of the sampled token alone
        )
        for index in range(len(prompts))
    ]
    outputs = engine.generate([{"prompt_token_ids": tokens} for tokens in prompts], plans)
    answers = [asdict(read(index, sample)) for index, output in enumerate(outputs) for sample in output.outputs]
    reply = {"answers": answers, "scored": score(engine, prompts, request.score)}
    answered.write_text(json.dumps(reply))


def tokenise(tokenizer: Any, text: str, system_prompt: str | None) -> list[int]:
    """One user turn under the folder's own chat template."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt is not None else []
    messages = [*system, {"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def read(prompt: int, sample: Any) -> Answer:
    """vLLM's output as an Answer."""
    logprobs = [of_token[token].logprob for token, of_token in zip(sample.token_ids, sample.logprobs, strict=True)]
    return Answer(prompt=prompt, text=sample.text, tokens=list(sample.token_ids), logprobs=logprobs)


def score(engine: Any, prompts: list[list[int]], answers: list[Answer]) -> list[list[float]]:
    """log p(token | prompt, prefix) [L] of each answer, nats, at temperature 1."""
    from vllm import SamplingParams

    if not answers:
        return []
    plan = SamplingParams(max_tokens=1, prompt_logprobs=0)
    inputs = [{"prompt_token_ids": prompts[answer.prompt] + answer.tokens} for answer in answers]
    scored = []
    for answer, output in zip(answers, engine.generate(inputs, plan), strict=True):
        of_tokens = output.prompt_logprobs[len(prompts[answer.prompt]) :]
        pairs = zip(answer.tokens, of_tokens, strict=True)
        scored.append([of_token[token].logprob for token, of_token in pairs])
    return scored


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
