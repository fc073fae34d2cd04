"""Vivaldi against the vectors of the original, and its refusals."""

import json
import math
import random
from pathlib import Path

import pytest

from pyconsul_agent.serf.coordinate import CoordinateClient, CoordinateError, distance_ns, new_coordinate
from pyconsul_agent.structs.coordinate import VivaldiCoordinate

VECTORS = json.loads((Path(__file__).parents[2] / "conformance/vectors/gossip/vivaldi.json").read_text())


def coordinate(fields):
    return VivaldiCoordinate(
        vec=tuple(float(x) for x in fields["Vec"]),
        error=float(fields["Error"]),
        adjustment=float(fields["Adjustment"]),
        height=float(fields["Height"]),
    )


def close(got, wanted):
    pairs = [*zip(got.vec, wanted.vec, strict=True)]
    pairs += [(got.error, wanted.error), (got.adjustment, wanted.adjustment), (got.height, wanted.height)]
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15) for a, b in pairs)


@pytest.mark.parametrize("sequence", VECTORS["sequences"], ids=lambda s: s["name"])
def test_sequence_of_the_original_is_followed(sequence):
    client = CoordinateClient(random.Random(1), start=coordinate(sequence["start"]))
    for step in sequence["steps"]:
        other = coordinate(step["other"])
        error = step.get("error", "")
        if not error:
            assert abs(distance_ns(client.coordinate, other) - step["distance_before_ns"]) <= 1
            client.observe(step["node"], other, step["rtt_ns"] / 1e9)
        else:
            with pytest.raises(CoordinateError, match=error):
                client.observe(step["node"], other, step["rtt_ns"] / 1e9)
        if "result" in step:
            assert close(client.coordinate, coordinate(step["result"]))
    assert client.resets == sequence["resets"]


@pytest.mark.parametrize("pair", VECTORS["distances"])
def test_distances_are_exact_to_a_nanosecond(pair):
    assert abs(distance_ns(coordinate(pair["a"]), coordinate(pair["b"])) - pair["distance_ns"]) <= 1


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
