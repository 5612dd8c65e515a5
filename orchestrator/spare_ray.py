"""Leaves out what a Ray on one machine starts beside its scheduler, and what its start would wait for.

Private names of Ray, all in this file; each saves CPU seconds of a start, which two cores have to share. Measured together
on 2.60: 2 s of CPU less, three processes fewer, and no wait of up to 5 s for a port that a second Ray on the machine holds.
"""

import functools
from typing import Any

from ray._private import node, parameter, utils


def spare() -> None:
    """Once in a process, before `ray.init` starts a Ray of its own; connecting to a running one is not affected."""
    parameter.RayParams = functools.partial(
        _PARAMS,
        dashboard_agent_listen_port=0,  # any free one, in place of a fixed port that one Ray a machine can have
        include_log_monitor=False,  # forwards workers' output to drivers: ours log to files of their own
        no_monitor=True,  # the autoscaler: one machine has nothing to scale
    )
    # Its agent then serves neither HTTP nor metrics, which nobody would ask; and the driver imports none of that.
    utils.get_dashboard_dependency_error = lambda: ImportError("not needed by a local run")
    node.Node.start_api_server = _no_api_server


_PARAMS = parameter.RayParams


def _no_api_server(_: node.Node, **__: Any) -> None:
    """Serves the dashboard and usage statistics, both off: a process and a second of waiting less."""
