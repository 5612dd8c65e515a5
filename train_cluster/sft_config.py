"""Settings of supervised fine-tuning."""

from pydantic import Field

from train_cluster.stage_config import StageConfig


class SftConfig(StageConfig):
    """Supervised fine-tuning on (prompt, completion) rows; only completion tokens count."""

    base: str
    """Model folder to start from; the result is written to `model.path`, where RL finds it."""
    random_init: bool = False
    """True: the base folder holds a config and a tokenizer but no weights."""
    path: str
    """JSONL file."""
    prompt_column: str = "prompt"
    """Column of the prompt; data.chat_template and data.system_prompt apply to it."""
    completion_column: str = "completion"
    """Column of the answer; the end-of-sequence token is added."""
    batch_examples: int = Field(default=64, ge=1)
    """Examples an update."""
