"""Three regions of the world on one machine: the delay of each link between the nodes of a :class:`LabCluster`."""

from __future__ import annotations

from sidecar.lab.cluster import LabCluster

ROUND_TRIP_MS: dict[frozenset[str], float] = {
    frozenset({"us-east", "eu-west"}): 80.0,
    frozenset({"eu-west", "ap-south"}): 150.0,
    frozenset({"us-east", "ap-south"}): 200.0,
}
"""As between data centres of the big providers on both coasts of the Atlantic and in India, rounded up."""

JITTER_MS = 2.0
"""Per direction, uniform: what a quiet backbone shows."""


def one_way_ms(a: str, b: str) -> float:
    """The delay between two regions, one way, without jitter."""
    return ROUND_TRIP_MS[frozenset({a, b})] / 2


def spread(cluster: LabCluster) -> None:
    """Put the nodes as far apart as their names say; holds for what is sent from now on."""
    for node in cluster.nodes:
        for peer, proxy in node.proxies.items():
            proxy.delay_ms = one_way_ms(node.name, peer)
            proxy.jitter_ms = JITTER_MS
