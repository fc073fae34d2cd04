"""Vivaldi against the vectors of the original, and its refusals."""

import math
import random

import pytest

from pyconsul_agent.serf.coordinate import (
    DISTANCE_NS_MAX,
    CoordinateClient,
    CoordinateError,
    distance_ns,
    new_coordinate,
)
from pyconsul_agent.structs.coordinate import VivaldiCoordinate


@pytest.mark.parametrize("rtt", [-0.001, 10.001, math.nan])
def test_absurd_round_trip_times_change_nothing(rtt):
    client = CoordinateClient(random.Random(1))
    with pytest.raises(CoordinateError):
        client.observe("b", new_coordinate(), rtt)
    assert client.coordinate == new_coordinate()


def test_infinite_coordinates_are_refused():
    client = CoordinateClient(random.Random(1))
    with pytest.raises(CoordinateError, match="invalid"):
        client.observe("b", VivaldiCoordinate(vec=(math.inf,) * 8), 0.1)
    assert client.cached("b") is None


@pytest.mark.parametrize("far", [1e300, -1e300, 1.7e308])
def test_a_peer_beyond_all_bounds_is_refused_and_its_distance_is_a_number(far):
    client = CoordinateClient(random.Random(1))
    other = VivaldiCoordinate(vec=(far,) * 8, height=far)
    with pytest.raises(CoordinateError, match="invalid"):
        client.observe("b", other, 0.1)
    assert client.coordinate == new_coordinate()
    assert distance_ns(client.coordinate, other) == DISTANCE_NS_MAX
    assert distance_ns(other, VivaldiCoordinate(vec=other.vec, height=far, adjustment=-far)) == DISTANCE_NS_MAX


def test_two_nodes_at_one_place_part_in_a_random_direction():
    client = CoordinateClient(random.Random(1))
    client.observe("b", new_coordinate(), 0.1)
    assert any(client.coordinate.vec)


def test_a_forgotten_node_leaves_no_cache():
    client = CoordinateClient(random.Random(1))
    client.observe("b", new_coordinate(), 0.1)
    assert client.cached("b") == new_coordinate()
    client.forget("b")
    assert client.cached("b") is None
