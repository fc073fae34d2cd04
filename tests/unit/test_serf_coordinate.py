"""Vivaldi against the vectors of the original, and its refusals."""

import math
import random

import pytest

from pyconsul_agent.serf.coordinate import CoordinateClient, CoordinateError, new_coordinate
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
