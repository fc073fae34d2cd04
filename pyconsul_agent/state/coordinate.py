"""Network coordinates of nodes, per segment."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pyconsul_agent.state.store import Store, Txn, node_prefix
from pyconsul_agent.state.table import fold, join
from pyconsul_agent.state.watch import WatchSet
from pyconsul_agent.structs.coordinate import Coordinate, VivaldiCoordinate

COORDINATES = "coordinates"


def is_valid(coord: VivaldiCoordinate | None) -> bool:
    """Whether every component is a finite number."""
    if coord is None:
        return False
    return all(map(math.isfinite, (*(coord.vec or ()), coord.error, coord.adjustment, coord.height)))


def list_all(store: Store, watch: WatchSet) -> tuple[int, list[Coordinate]]:
    """Coordinates of all nodes."""
    watch.table(COORDINATES)
    return store.index(COORDINATES), store.tables.coordinates.scan()


def of_node(store: Store, watch: WatchSet, node: str) -> tuple[int, list[Coordinate]]:
    """Coordinates of a node, one per segment."""
    watch.prefix(COORDINATES, node_prefix(node))
    return store.index(COORDINATES), store.tables.coordinates.scan(node_prefix(node))


def batch_update(txn: Txn, updates: Iterable[Coordinate]) -> None:
    """Store coordinates; invalid ones and those of unknown nodes are skipped. The index moves in any case."""
    for update in updates:
        if is_valid(update.coord) and txn.tables.nodes.get(fold(update.node)) is not None:
            txn.put(txn.tables.coordinates, join(fold(update.node), fold(update.segment)), update)
    txn.set_index(COORDINATES)
