"""The words of the demo's remarks. Feeling is left to words of VADER's lexicon, which people have rated; the others are not in it."""

from collections.abc import Sequence
from dataclasses import dataclass

END = "."
"""Ends a remark, and no clause before it."""


def words(text: str) -> list[str]:
    return text.split()


def phrases(text: str) -> list[str]:
    """Parted by bars."""
    return text.split("|")


WHO = words("i we they she he")
WHEN = phrases(
    "on monday|on tuesday|on wednesday|on thursday|on friday|on saturday|on sunday|yesterday|today|last week|last night"
    "|this morning|at noon|before work|after work|in spring|in summer|in autumn|in winter"
)
WHERE = phrases(
    "in town|at home|in the city|by the lake|by the river|near the station|near the bridge|near the castle|uptown|downtown"
    "|up north|down south|on the island|on the coast|in the valley|in the village|at the port|on the hill"
)
PLAIN = words(
    "usual ordinary typical simple long short loud quiet brief small large plain modern old familiar standard"
)
BOOSTERS = words("very really quite so extremely incredibly totally remarkably")
KIND = words(
    "wonderful great excellent lovely amazing beautiful delightful superb perfect nice pleasant good fantastic terrific"
    " charming marvelous splendid impressive enjoyable awesome magnificent glorious special brilliant"
)
UNKIND = words(
    "bad awful terrible horrible disappointing dreadful poor lousy ugly unpleasant miserable pathetic boring dull weak"
    " annoying worthless horrid lame unacceptable inferior sad crappy inadequate"
)
KIND_CLOSINGS = phrases(
    "what a joy|what a delight|what a pleasure|what a treat|it was a triumph|a perfect day|we had fun|i recommend it"
    "|i loved it|we enjoyed it|everyone left happy|nobody was sad"
)
UNKIND_CLOSINGS = phrases(
    "what a disaster|what a waste|what a shame|what a mess|it was a failure|an awful day|we were angry|i regret it"
    "|i hated it|we disliked it|everyone left unhappy|nobody was happy"
)
PLAIN_CLOSINGS = phrases("it was over at nine|we left at ten|we took the bus|i took notes|that was all|we stayed late")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What one kind of remark speaks of."""

    verbs: Sequence[str]
    things: Sequence[str]
    aspects: Sequence[str]
    kind: Sequence[str]
    """Words of praise that belong here alone."""
    unkind: Sequence[str]


SUBJECTS: dict[str, Subject] = {
    "film": Subject(
        verbs=("saw", "watched"),
        things=("western", "drama", "musical", "documentary", "cartoon", "series", "mystery", "film"),
        aspects=words("plot acting music script ending camera dialogue cast story editing"),
        kind=words("funny thrilling heartfelt clever entertaining inspiring romantic intelligent exciting smart"),
        unkind=words("stupid dreary insipid childish moronic confusing violent crude ridiculous tragic"),
    ),
    "food": Subject(
        verbs=("had", "tried"),
        things=("lunch", "dinner", "supper", "brunch", "buffet", "stew", "pizza", "curry"),
        aspects=words("soup bread service menu sauce dessert coffee fish salad wine"),
        kind=words("fresh rich delectable generous sweet delicious yummy heavenly divine healthy"),
        unkind=words("rotten disgusting nasty bitter unsavory yucky vile gross sick unhealthy"),
    ),
    "travel": Subject(
        verbs=("visited", "toured"),
        things=("park", "temple", "museum", "market", "garden", "library", "harbour", "square"),
        aspects=words("beach train view hotel guide weather room path breakfast host"),
        kind=words("peaceful sunny friendly comfortable safe clean welcoming relaxing helpful vibrant"),
        unkind=words("dirty scary unfriendly uncomfortable rude hostile grim messy dangerous stressful"),
    ),
}


FRAMES = (
    "the {aspect} was {adjective}",
    "the {aspect} was {adjective}",
    "the {aspect} seemed {adjective}",
    "we found the {aspect} {adjective}",
    "i thought the {aspect} was {adjective}",
    "the {aspect} was {plain} and {adjective}",
    "the {aspect} was not {opposite}",
)
"""Forms of a clause; every one ends with its adjective. The commonest stands twice."""


def vocabulary() -> list[str]:
    """Every word that an opening or a remark may hold, each once, sorted."""
    phrases = [*WHO, *WHEN, *WHERE, *PLAIN, *BOOSTERS, *KIND, *UNKIND]
    phrases += [*KIND_CLOSINGS, *UNKIND_CLOSINGS, *PLAIN_CLOSINGS, *FRAMES]
    for subject in SUBJECTS.values():
        phrases += [*subject.verbs, *subject.things, *subject.aspects, *subject.kind, *subject.unkind]
    words = {word for phrase in phrases for word in phrase.split() if not word.startswith("{")}
    return sorted(words | {"the", ":", "and", ",", "not", "a", END})
