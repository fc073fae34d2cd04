"""Vivaldi network coordinates and the rows that hold them."""

from __future__ import annotations

from pyconsul_agent.structs.base import struct, wire


@struct
class VivaldiCoordinate:
    """Consul's `coordinate.Coordinate`."""

    vec: tuple[float, ...] | None = wire("Vec", default=None)
    error: float = wire("Error", default=0.0)
    adjustment: float = wire("Adjustment", default=0.0)
    height: float = wire("Height", default=0.0)


@struct
class Coordinate:
    """Consul's `Coordinate`."""

    node: str = wire("Node", default="")
    segment: str = wire("Segment", default="")
    coord: VivaldiCoordinate | None = wire("Coord", default=None)


@struct
class DatacenterMap:
    """Consul's `DatacenterMap`."""

    datacenter: str = wire("Datacenter", default="")
    area_id: str = wire("AreaID", default="")
    coordinates: tuple[Coordinate, ...] | None = wire("Coordinates", default=None)
