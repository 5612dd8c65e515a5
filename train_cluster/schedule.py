"""The learning rate of a step."""


def warmed_up(step: int, *, peak: float, warmup_steps: int) -> float:
    """Linear from 0 over the first `warmup_steps` steps, then constant; steps count from 1."""
    return peak * min(1.0, step / warmup_steps) if warmup_steps else peak
