"""The shared functions: near the true value, and the same bits compiled and in plain Python."""

import math
import random
from collections.abc import Callable

import pytest

from kernels import transcend

CHANCE = random.Random(5)
POINTS: dict[str, tuple[Callable[[float], float], list[float]]] = {
    "exp2": (lambda x: 2.0**x, [0.0, -0.5, -1.0, *(-CHANCE.uniform(0, 900) for _ in range(500))]),
    "log": (
        math.log,
        [1.0, 2.0, 1e-300, 1e300, *(CHANCE.lognormvariate(0, 9) for _ in range(500))],
    ),
    "log1p": (
        math.log1p,
        [0.0, 1e-300, -0.999, 1e-17, *(CHANCE.lognormvariate(-9, 9) for _ in range(500))],
    ),
}


@pytest.mark.parametrize("name", POINTS)
def test_value_is_within_a_few_units_of_the_last_place(name: str) -> None:
    true, points = POINTS[name]
    for x in points:
        expected = true(x)
        assert getattr(transcend, name)(x) == pytest.approx(expected, rel=8e-16, abs=1e-320)


@pytest.mark.parametrize("name", POINTS)
def test_compiled_and_plain_python_give_the_same_bits(name: str) -> None:
    function = getattr(transcend, name)
    for x in POINTS[name][1]:
        assert function(x).hex() == function.py_func(x).hex()


def haversine_m(a: tuple[float, float], b: tuple[float, float]) -> float:
    (north_a, east_a), (north_b, east_b) = (map(math.radians, place) for place in (a, b))
    h = (
        math.sin((north_b - north_a) / 2) ** 2
        + math.cos(north_a) * math.cos(north_b) * math.sin((east_b - east_a) / 2) ** 2
    )
    return 2 * transcend.EARTH_RADIUS_M * math.asin(math.sqrt(min(h, 1)))


def place() -> tuple[float, float]:
    return CHANCE.uniform(-90, 90), CHANCE.uniform(-180, 180)


def test_distance_is_the_great_circles() -> None:
    munich, sydney = (48.137154, 11.576124), (-33.86785, 151.20732)
    assert transcend.distance_m(*munich, *sydney) == pytest.approx(16_320_000, rel=1e-3)
    poles = transcend.distance_m(90.0, 0.0, -90.0, 77.0)
    assert poles == pytest.approx(math.pi * transcend.EARTH_RADIUS_M, abs=1.0)
    assert transcend.distance_m(*munich, *munich) == 0.0
    for _ in range(500):
        a, b = place(), place()
        assert transcend.distance_m(*a, *b) == pytest.approx(haversine_m(a, b), abs=1.0)
        near = (a[0], min(a[1] + 1e-4, 180.0))
        assert transcend.distance_m(*a, *near) == pytest.approx(haversine_m(a, near), abs=1e-3)


def test_distance_across_the_date_line_is_short() -> None:
    assert transcend.distance_m(0.0, 179.999, 0.0, -179.999) == pytest.approx(222.4, abs=0.1)
