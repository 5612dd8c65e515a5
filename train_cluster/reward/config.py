"""Settings of reward-model training."""

from typing import Literal

from pydantic import Field

from train_cluster.supervised.config import StageConfig

AGREEMENT = 0.7
"""Share of annotators who must prefer the chosen answer: below it a row teaches their disagreement."""


class RewardTrainingConfig(StageConfig):
    """A model that learns from pairs of answers which one people prefer."""

    base: str | None = None
    """Model folder to start from, with a fresh head; null = `model.path`, which `headrace sft` writes."""
    random_init: bool = False
    """True: the base folder holds a config and a tokenizer but no weights."""
    path: str
    """JSONL file of pairs."""
    out: str
    """Folder to write; with several members it holds one folder each, named 0, 1 and so on."""
    prompt_column: str = "prompt"
    """Column of the prompt, a text or chat turns; data.chat_template and data.system_prompt apply to it."""
    chosen_column: str = "chosen"
    """Column of the preferred answer, a text or chat turns that end with it; the end-of-sequence token is added."""
    rejected_column: str = "rejected"
    """Column of the other answer."""
    margin_column: str = "margin"
    """Column of how much better the chosen answer is, a number >= 0, where a row has it."""
    annotators_column: str = "annotators"
    """Column of the votes, a list of "chosen" and "rejected", one an annotator, where a row has it."""
    category_column: str = "category"
    """Column of the kind of prompt, a text, where a row has it; the card gives the accuracy of each."""
    bad_pairs: Literal["refuse", "skip"] = "refuse"
    """What becomes of a row that is malformed, empty, too long, or whose answers are equal: refused, or left out and counted."""
    min_agreement: float | None = Field(default=None, ge=0.5, le=1)
    """Rows of whose annotators fewer are for the chosen answer are left out and counted; null = 0.7, a number = there must
    be rows with several."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts that is kept from training, with all pairs of each, and judges the model."""
    held_out_path: str | None = None
    """JSONL file of pairs that judge it instead; pairs of `path` with one of its prompts are left out."""
    members: int = Field(default=1, ge=1)
    """Models of an ensemble, trained one after another; 3 see what one overrates."""
    member_data: Literal["bootstrap", "disjoint"] = "bootstrap"
    """What each member of an ensemble sees: as many prompts drawn with replacement, or a part of its own."""
    batch_pairs: int = Field(default=64, ge=1)
    """Pairs an update."""
    warmup_steps: int = Field(default=20, ge=0)
    """Linear from 0, then constant; fewer than in fine-tuning, since one epoch of pairs has few steps."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of attention weights while it trains: one epoch over few pairs overfits without."""
    margins: bool = True
    """False: the margins of the rows are not used."""
    centring: float = Field(default=0.01, ge=0)
    """Weight of the squared sum of a pair's two scores, which holds their mean near 0 and changes no preference."""
    flip_rate: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the pairs believed to be labelled the wrong way round; the loss then expects that of clean labels."""
    length_penalty: float = Field(default=0.0, ge=0)
    """How much of what the lengths alone predict is explained away while it trains: 0 = none, 1 = all of it."""

    @property
    def agreement(self) -> float:
        """The limit in force where a row has annotators."""
        return AGREEMENT if self.min_agreement is None else self.min_agreement
