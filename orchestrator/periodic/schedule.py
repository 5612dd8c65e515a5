"""When a version is due to be evaluated: numbers in, an answer out."""


def due(newest: int, *, last: int, interval_steps: int, final: bool) -> bool:
    """Whether version `newest` shall be evaluated now, `last` being the newest that was (0: none).

    Once a multiple of the interval was passed since: where evaluation lags, the newest version stands for all between.
    `final`: the run has nothing more to publish, so that its last version is due in any case.
    """
    return newest > last and (final or newest // interval_steps > last // interval_steps)
