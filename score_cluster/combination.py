"""From the raw components of a group's completions to their totals: pure functions."""

from collections.abc import Mapping, Sequence

from score_cluster.reward_config import (
    CombineConfig,
    ConstraintConfig,
    LexicographicConfig,
    NormalisedConfig,
)

# G samples of a prompt. Components are {name: [G]}, raw and unweighted.

Components = Mapping[str, Sequence[float]]

TOTAL = "total"
"""Names the combination in failures."""
LARGEST = 3.4028234663852886e38
"""Of float32, in which the trainer reads totals."""

NO_SPREAD = 1e-5
"""Of a component within its group, relative to its size: below it all values count as equal. Equal texts may differ so much
by the float sums of different batches, and standardised noise would weigh as much as a real difference."""


def totals(
    components: Components,
    *,
    weights: Mapping[str, float],
    combine: CombineConfig,
    constraints: Sequence[ConstraintConfig] = (),
) -> list[float]:
    """[G] what the trainer maximises."""
    if isinstance(combine, LexicographicConfig):
        combined = lexicographic(components, order=combine.order, tolerance=combine.tolerance)
    elif isinstance(combine, NormalisedConfig):
        combined = weighted_sum({name: standardised(values) for name, values in components.items()}, weights=weights)
    else:
        combined = weighted_sum(components, weights=weights)
    for one in constraints:
        short = shortfall(components[one.component], threshold=one.threshold)
        combined = [total - one.multiplier * missing for total, missing in zip(combined, short, strict=True)]
    return combined


def too_large(totals_G: Sequence[float]) -> str | None:
    """What is wrong with the first total that the trainer could not read: finite components may add up to no number."""
    odd = next((index for index, total in enumerate(totals_G) if not abs(total) <= LARGEST), None)
    return None if odd is None else f"the components of completion {odd} combine to {totals_G[odd]:g}"


def weighted_sum(components: Components, *, weights: Mapping[str, float]) -> list[float]:
    """[G] sum over the components of weight · value."""
    return [
        sum(weights[name] * value for name, value in zip(components, values, strict=True))
        for values in zip(*components.values(), strict=True)
    ]


def standardised(values: Sequence[float]) -> list[float]:
    """[G] (r − mean) / std over the group, std with denominator G; zeros for one value and for values without spread."""
    count = len(values)
    mean = sum(values) / count
    if max(values) - min(values) <= NO_SPREAD * max(1.0, abs(mean)):
        return [0.0] * count
    std = (sum((value - mean) ** 2 for value in values) / count) ** 0.5
    return [(value - mean) / std for value in values]


def lexicographic(components: Components, *, order: Sequence[str], tolerance: Mapping[str, float]) -> list[float]:
    """[G] (others that a completion beats − others that beat it) / (G − 1), in −1..1; 0 for a single one.

    i beats j if, at the first component of `order` whose values differ by more than its tolerance, i has the larger one. With
    tolerances of 0 this is the lexicographic order, and the totals are in that order. A tolerance is not transitive (a ~ b
    and b ~ c, yet c beats a), so that there is no order to keep; a share of comparisons is defined all the same, and
    a circle comes out as a tie.
    """
    count = len(next(iter(components.values())))
    if count == 1:
        return [0.0]

    def beats(i: int, j: int) -> int:
        for name in order:
            difference = components[name][i] - components[name][j]
            if abs(difference) > tolerance.get(name, 0.0):
                return 1 if difference > 0 else -1
        return 0

    return [sum(beats(i, j) for j in range(count) if j != i) / (count - 1) for i in range(count)]


def shortfall(values: Sequence[float], *, threshold: float) -> list[float]:
    """[G] max(0, threshold − r)."""
    return [max(0.0, threshold - value) for value in values]
