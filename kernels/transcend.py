"""Powers, logarithms and distances that give the same bits everywhere.

Libraries differ in the last bit of such functions, between versions and between one number and a
vector of them. These use additions, multiplications, divisions and square roots only, which IEEE
754 rounds in one way, so a compiled kernel and plain Python agree. They are within a few units of
the last place of the true value (see the tests).
"""

from __future__ import annotations

import math

from numba import njit

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_PI = math.pi


@njit(cache=True)
def exp2(x: float) -> float:
    """2^x for -1000 ≤ x ≤ 0; 0 below."""
    if x < -1000.0:
        return 0.0
    whole = math.floor(x + 0.5)
    y = (x - whole) * 0.6931471805599453
    # |y| ≤ 0.3466: the Taylor series to the 13th power is exact to the last place.
    total = 1.0
    for n in range(13, 0, -1):
        total = total * y / n + 1.0
    power = 1.0
    step = 0.5 if whole < 0 else 2.0
    count = abs(int(whole))
    while count > 0:
        if count & 1:
            power *= step
        step *= step
        count >>= 1
    return total * power


@njit(cache=True)
def log(x: float) -> float:
    """The natural logarithm of x > 0 (after fdlibm's e_log.c, with a plain series)."""
    mantissa, exponent = math.frexp(x)
    if mantissa < 0.7071067811865476:
        mantissa *= 2.0
        exponent -= 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    # 2·atanh(s): |s| ≤ 0.1716, so z^11 is below 2^-55.
    total = 0.0
    for n in range(23, 1, -2):
        total = (total + 1.0 / n) * z
    return exponent * _LN2_HIGH + (2.0 * s + (2.0 * s * total + exponent * _LN2_LOW))


@njit(cache=True)
def log1p(x: float) -> float:
    """ln(1 + x) for x > -1 (Kahan's form: the rounding of 1 + x cancels)."""
    u = 1.0 + x
    if u == 1.0:
        return x
    # So far out 1 is nothing beside x, and a product with it may overflow.
    return log(x) if x > 1e300 else log(u) * x / (u - 1.0)


@njit(cache=True)
def _sin(x: float) -> float:
    """The sine of |x| ≤ π."""
    y = abs(x)
    if y > _PI / 2:
        y = _PI - y
    z = y * y
    total = 1.0
    for n in range(21, 1, -2):
        total = 1.0 - total * z / (n * (n - 1))
    return -y * total if x < 0 else y * total


@njit(cache=True)
def _asin(x: float) -> float:
    """The arc sine of 0 ≤ x ≤ 1, by Newton's method on the sine."""
    if x > 0.7071067811865476:
        return _PI / 2 - _asin_small(math.sqrt((1.0 - x) * (1.0 + x)))
    return _asin_small(x)


@njit(cache=True)
def _asin_small(x: float) -> float:
    y = x * (1.0 + x * x / 6.0)
    for _ in range(5):
        y -= (_sin(y) - x) / math.sqrt(1.0 - min(_sin(y), 0.9) * min(_sin(y), 0.9))
    return y


EARTH_RADIUS_M = 6_371_008.8
"""The mean radius (IUGG)."""


@njit(cache=True)
def distance_m(
    latitude_a: float, longitude_a: float, latitude_b: float, longitude_b: float
) -> float:
    """Metres along the great circle between two places in degrees (the haversine formula)."""
    to_radians = _PI / 180.0
    north = _sin((latitude_b - latitude_a) * to_radians / 2.0)
    difference = abs(longitude_b - longitude_a)
    east = _sin(min(difference, 360.0 - difference) * to_radians / 2.0)
    cosines = _sin((90.0 - abs(latitude_a)) * to_radians) * _sin(
        (90.0 - abs(latitude_b)) * to_radians
    )
    h = north * north + cosines * east * east
    return 2.0 * EARTH_RADIUS_M * _asin(min(math.sqrt(h), 1.0))
