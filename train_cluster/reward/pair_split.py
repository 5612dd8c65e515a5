"""Which pairs are trained on, which judge, and what each member of an ensemble sees; always by whole prompts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from train_cluster.reward.pairs import Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Pairs to train on and pairs to judge by; no prompt is on both sides."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    overlapping: int
    """Pairs left out of training, since a held-out file has their prompt."""


def split_pairs(pairs: Sequence[Pair], *, share: float, seed: int) -> Split:
    """Hold out this share of the prompts, rounded, but at least one: those whose hash with the seed is least.

    A function of the set of prompts and the seed: the order of the file does not matter, nor how many pairs a prompt has.
    ValueError: fewer than two prompts.
    """
    keys = sorted({pair.prompt_key for pair in pairs}, key=lambda key: _mixed(seed, key))
    if len(keys) < 2:
        raise ValueError(f"{len(keys)} different prompts cannot be split into those to train on and those to judge by")
    count = min(max(round(share * len(keys)), 1), len(keys) - 1)
    held = set(keys[:count])
    return Split(
        train=tuple(pair for pair in pairs if pair.prompt_key not in held),
        held_out=tuple(pair for pair in pairs if pair.prompt_key in held),
        overlapping=0,
    )


def split_against(pairs: Sequence[Pair], held_out: Sequence[Pair]) -> Split:
    """Train on what shares no prompt with a file of its own. ValueError: nothing is left on one side."""
    held = {pair.prompt_key for pair in held_out}
    train = tuple(pair for pair in pairs if pair.prompt_key not in held)
    if not train or not held_out:
        raise ValueError("nothing is left on one side: all prompts of the pairs are held out, or there are none")
    return Split(train=train, held_out=tuple(held_out), overlapping=len(pairs) - len(train))


def member_pairs(
    pairs: Sequence[Pair], *, member: int, members: int, kind: Literal["bootstrap", "disjoint"], seed: int
) -> tuple[Pair, ...]:
    """What one member of an ensemble trains on; whole prompts, since pairs of one prompt say much the same.

    bootstrap: as many prompts as there are, drawn with replacement (Efron 1979), so that each member sees some 63 % of
    them, some more than once. disjoint: the prompts are dealt out. A single model sees all. ValueError: too few prompts.
    """
    if members == 1:
        return tuple(pairs)
    by_prompt: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt_key, []).append(pair)
    keys = sorted(by_prompt, key=lambda key: _mixed(seed, key))
    if len(keys) < members:
        raise ValueError(f"{len(keys)} prompts are too few for {members} members")
    if kind == "disjoint":
        chosen = keys[member::members]
    else:
        drawn = np.random.default_rng([seed, member]).integers(0, len(keys), len(keys))
        chosen = [keys[i] for i in drawn]
    return tuple(pair for key in chosen for pair in by_prompt[key])


def without_margins(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    return tuple(replace(pair, margin=0.0) for pair in pairs)


def _mixed(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()
