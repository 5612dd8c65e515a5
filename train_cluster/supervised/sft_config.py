"""Settings of supervised fine-tuning."""

from typing import Literal

from pydantic import Field

from train_cluster.supervised.config import StageConfig


class SftConfig(StageConfig):
    """Supervised fine-tuning on completions alone. A row is a prompt and a completion, or a chat, or one text."""

    base: str
    """Model folder to start from; the result is written to `model.path`, where RL finds it."""
    random_init: bool = False
    """True: the base folder holds a config and a tokenizer but no weights."""
    path: str
    """JSONL, Parquet or Arrow file, or a Hugging Face data-set folder of such files."""
    split: str | None = Field(default=None, min_length=1)
    """Of a folder that holds several; null = the only one there is."""
    prompt_column: str = "prompt"
    """Column of the prompt; data.chat_template and data.system_prompt apply to it."""
    completion_column: str = "completion"
    """Column of the answer; the end-of-sequence token is added."""
    messages_column: str | None = None
    """Column of whole chats, a list of {role, content}, in place of the two; the model's own chat template writes them."""
    train_on: Literal["last", "all"] = "last"
    """Which of the assistant's turns in a chat are trained; the last is what generation will be asked for."""
    text_column: str | None = None
    """Column of one text that holds prompt and answer, in place of the two; the end-of-sequence token is added."""
    response_template: str | None = Field(default=None, min_length=1)
    """Where the answer begins in such a text: its last occurrence and all behind it are trained, nothing before."""
    held_out_path: str | None = None
    """Rows of the same form that are never trained: their loss says when more training stops helping."""
    held_out_split: str | None = Field(default=None, min_length=1)
    """Of a folder there that holds several."""
    held_out_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the prompts in `path` that is held out instead, drawn from run.seed; 0 = none, as rows are the user's to give."""
    batch_examples: int = Field(default=64, ge=1)
    """Examples an update."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Of an example, prompt included; null = the model's context."""
    too_long: Literal["refuse", "truncate", "skip"] = "refuse"
    """What becomes of a longer one: it ends the command, loses its end, or is left out; the last two are counted."""
