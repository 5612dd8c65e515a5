"""Errors that a person must tell apart; everything that is their own mistake is a ValueError."""


class RunFailed(RuntimeError):
    """The run cannot go on; the message is the one-line cause that `status` shows."""


class EvaluationFailed(RuntimeError):
    """A judge, a reward or an engine failed; the message is one line that names it."""


class DeliveryFailed(RuntimeError):
    """What was to be sent elsewhere did not arrive; the message is one line that names where to look."""
