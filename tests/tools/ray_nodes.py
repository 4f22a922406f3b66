"""A Ray cluster of several node processes on this machine, as a program.

Prints the address; each line on its input kills a node, and then "removed" is printed; the cluster ends with the input.
The head computes nothing.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

MEMORY = 100 << 20


def main(nodes: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
    workers = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(nodes)]
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(workers.pop(), allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
