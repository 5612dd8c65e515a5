"""A small grammar of remarks on films, meals and journeys: what the demo's policy learns to write before it is judged.

A prompt is an opening ("on monday we saw the old western in town :"); its completion is a remark of some 8-20 words.
A remark has a mood, drawn once: the same opening may be praised or damned. Some are flawed on purpose, by stammering,
repeating themselves or rambling, so that a reward model that is trained on pairs of them knows flaws when it sees them.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.words import (
    BOOSTERS,
    END,
    FRAMES,
    KIND,
    KIND_CLOSINGS,
    PLAIN,
    PLAIN_CLOSINGS,
    SUBJECTS,
    UNKIND,
    UNKIND_CLOSINGS,
    WHEN,
    WHERE,
    WHO,
    Subject,
)

MOOD_SLOPE = 2.5
"""Chance of a kind word at mood m in -1..1 is sigmoid(slope · m): 0.92 at best, so that a remark is rarely of one voice."""
PLAIN_SHARE = 0.15
"""Of the adjectives; "quiet", "modern": these praise nothing and blame nothing."""
BOOSTED_SHARE = 0.3
CLAUSES = (1, 2, 2, 3)
"""How many a remark has, before its flaw; drawn evenly."""
CLOSING_SHARE = 0.4
FLAWS: dict[str, float] = {"stammer": 0.12, "echo": 0.1, "ramble": 0.1}
"""Chance of each flaw; at most one a remark."""
RAMBLE_CLAUSES = (2, 4)
"""More than a remark wants."""
STAMMER_WORDS = (2, 4)
ECHO_CLAUSES = (1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """A prompt and what it speaks of."""

    subject: str
    """Key of SUBJECTS."""
    text: str
    reserved: bool
    """Of an eighth of the pairs of thing and place, of which only held-out openings speak."""


def opening(generator: random.Random) -> Opening:
    """One of 77,760 openings, 8 to 10 words."""
    subject = generator.choice(list(SUBJECTS))
    words = SUBJECTS[subject]
    who, when, verb = (generator.choice(choices) for choices in (WHO, WHEN, words.verbs))
    thing, place = generator.randrange(len(words.things)), generator.randrange(len(WHERE))
    text = f"{when} {who} {verb} the {words.things[thing]} {WHERE[place]} :"
    return Opening(subject=subject, text=text, reserved=(thing + place) % 8 == 0)


def remark(generator: random.Random, subject: str) -> str:
    """One completion of an opening on `subject`; its mood and its flaws are drawn too."""
    writer = Writer(generator=generator, subject=SUBJECTS[subject], mood=generator.uniform(-1.0, 1.0))
    flaw = _flaw(generator)
    clauses = writer.clauses(generator.choice(CLAUSES))
    if flaw == "stammer":
        clauses[-1] = stammered(clauses[-1], times=generator.randint(*STAMMER_WORDS))
    elif flaw == "echo":
        clauses += [generator.choice(clauses) for _ in range(generator.randint(*ECHO_CLAUSES))]
    elif flaw == "ramble":
        clauses += writer.clauses(generator.randint(*RAMBLE_CLAUSES))
    text = clauses[0]
    for clause in clauses[1:]:
        text += f" {generator.choice(('and', ','))} {clause}"
    if generator.random() < CLOSING_SHARE:
        text += f" , {writer.closing()}"
    return f"{text} {END}"


def stammered(clause: str, *, times: int) -> str:
    """The last word of a clause said `times` more."""
    last = clause.split()[-1]
    return " ".join([clause, *[last] * times])


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """Draws the parts of one remark."""

    generator: random.Random
    subject: Subject
    mood: float

    def clauses(self, count: int) -> list[str]:
        return [self.clause() for _ in range(count)]

    def clause(self) -> str:
        kind = self.is_kind()
        parts: dict[str, Callable[[], str]] = {
            "{aspect}": lambda: self.generator.choice(self.subject.aspects),
            "{plain}": lambda: self.generator.choice(PLAIN),
            "{adjective}": lambda: self.adjective(kind=kind),
            "{opposite}": lambda: self.word(kind=not kind),
        }
        frame = self.generator.choice(FRAMES)
        return " ".join(parts[word]() if word in parts else word for word in frame.split())

    def is_kind(self) -> bool:
        return self.generator.random() < 1.0 / (1.0 + math.exp(-MOOD_SLOPE * self.mood))

    def adjective(self, *, kind: bool) -> str:
        """With its booster, if it has one."""
        word = self.generator.choice(PLAIN) if self.generator.random() < PLAIN_SHARE else self.word(kind=kind)
        return f"{self.generator.choice(BOOSTERS)} {word}" if self.generator.random() < BOOSTED_SHARE else word

    def word(self, *, kind: bool) -> str:
        general, own = (KIND, self.subject.kind) if kind else (UNKIND, self.subject.unkind)
        return self.generator.choice(self.generator.choice((general, own)))

    def closing(self) -> str:
        if self.generator.random() < PLAIN_SHARE:
            return self.generator.choice(PLAIN_CLOSINGS)
        return self.generator.choice(KIND_CLOSINGS if self.is_kind() else UNKIND_CLOSINGS)


def _flaw(generator: random.Random) -> str | None:
    point = generator.random()
    for name, share in FLAWS.items():
        if point < share:
            return name
        point -= share
    return None
