"""Ray nodes on one machine. Prints their address and keeps them until stdin ends.

    python -m tests.integration.nodes '[{"num_cpus": 1}, {"num_cpus": 0, "resources": {"ingress": 1}}]'

The first is the head node.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster


def main() -> None:
    head, *others = json.loads(sys.argv[1])
    nodes = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    for resources in others:
        nodes.add_node(**resources)
    print(nodes.address, flush=True)
    sys.stdin.read()
    nodes.shutdown()


if __name__ == "__main__":
    main()
