"""A Ray cluster of several nodes on this machine, each with a loopback address of its own; ends with its standard input.

    python ray_nodes.py TEMPORARY_FOLDER CPUS:GPUS CPUS:GPUS …        prints the head's host:port

The folder's name must be short: Ray's sockets lie below it.
"""

import os
import sys
import tempfile
from pathlib import Path

# Read by the raylets when they start.
os.environ |= {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_AUTH_MODE": "disabled",
}


def main(folder: str, *nodes: str) -> None:
    from ray.cluster_utils import Cluster  # after the environment is set

    # Where Ray notes a cluster's address; it makes the folder itself only when it starts on its own.
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
    cluster = Cluster()
    for index, node in enumerate(nodes):
        cpus, gpus = node.split(":")
        cluster.add_node(
            node_ip_address=f"127.0.0.{2 + index}",  # not .1, for which Ray puts the machine's own address
            num_cpus=int(cpus),
            num_gpus=int(gpus),
            object_store_memory=80 * 1024**2,
            **({"temp_dir": folder, "include_dashboard": False} if index == 0 else {}),
        )
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
