"""The command's first lines: until it can say that it was interrupted, Ctrl-C ends it without a word."""

import signal


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from orchestrator import cli  # a fifth of a second, in which Python would answer with a traceback

    cli.main()
