"""Errors that a person must tell apart; everything that is their own mistake is a ValueError."""


class RunFailed(RuntimeError):
    """The run cannot go on; the message is the one-line cause that `status` shows."""
