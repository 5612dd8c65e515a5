"""How many steps there are, and the learning rate of each."""


def warmed_up(step: int, *, peak: float, warmup_steps: int) -> float:
    """Linear from 0 over the first `warmup_steps` steps, then constant; steps count from 1."""
    return peak * min(1.0, step / warmup_steps) if warmup_steps else peak


def total_steps(units: int, *, batch_units: int, epochs: int) -> int:
    """The last batch of an epoch may be smaller; batches do not reach over epochs."""
    return epochs * -(-units // batch_units)
