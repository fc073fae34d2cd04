"""Vivaldi network coordinates and the rows that hold them."""

from __future__ import annotations

from dataclasses import dataclass

from pyconsul_agent.structs.base import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class VivaldiCoordinate:
    """Consul's `coordinate.Coordinate`."""

    vec: tuple[float, ...] | None = wire("Vec", None)
    error: float = wire("Error", 0.0)
    adjustment: float = wire("Adjustment", 0.0)
    height: float = wire("Height", 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate:
    """Consul's `Coordinate`."""

    node: str = wire("Node", "")
    segment: str = wire("Segment", "")
    coord: VivaldiCoordinate | None = wire("Coord", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatacenterMap:
    """Consul's `DatacenterMap`."""

    datacenter: str = wire("Datacenter", "")
    area_id: str = wire("AreaID", "")
    coordinates: tuple[Coordinate, ...] | None = wire("Coordinates", None)
