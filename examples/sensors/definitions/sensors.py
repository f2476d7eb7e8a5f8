"""Sensors that measure temperature: how each behaves, and how warm it is around it.

Nobody labels a reading, so there is no model to train; whoever watches the sensors reads the
columns from the online store, the features topic or the lake.
"""

from features.vocabulary import (
    Category,
    Entity,
    Event,
    FeatureSet,
    Integer,
    Reference,
    Text,
    count,
    days,
    first,
    hours,
    is_known,
    is_night,
    last,
    max,
    mean,
    min,
    minutes,
    seconds,
    seconds_between,
    seconds_since_last,
    std,
)

device = Entity("device_id")
site = Entity("site_id")

readings = Event(
    "sensors.reading.v1",
    id="reading_id",
    time="measured_at",
    key=device,
    # A device that was out of reach sends what it has kept.
    lateness=minutes(15),
    fields={
        "device_id": Text(max=32),
        "site_id": Text(max=32),
        "temperature_mc": Integer(min=-60_000, max=125_000),  # thousandths of a degree Celsius
        "battery_mv": Integer(min=0, max=5_000),
    },
)

# A sensor measures so much too warm from its calibration on, until the next one.
calibrations = Reference(
    "sensors.calibration.v1",
    key=device,
    time="calibrated_at",
    fields={
        "offset_mc": Integer(min=-5_000, max=5_000),
        "housing": Category("indoor", "outdoor"),
    },
)

HOT_MC = 30_000

sensors = FeatureSet(
    "sensors",
    event=readings,
    owner="facilities",
    description="Whether a sensor drifts, sticks, falls silent or runs out of power, and how its "
    "readings lie among those of its site.",
    tags=("example", "sensors"),
    freshness=seconds(2),
    features=[
        readings.temperature_mc,
        readings.battery_mv,
        (readings.temperature_mc - calibrations.offset_mc).named("calibrated_mc"),
        calibrations.housing,
        is_known(calibrations),
        is_night(readings),
        *(count(by=device, over=over) for over in (minutes(10), hours(1))),
        *(mean(readings.temperature_mc, by=device, over=over) for over in (minutes(10), hours(6))),
        *(std(readings.temperature_mc, by=device, over=over) for over in (minutes(10), hours(1))),
        min(readings.temperature_mc, by=device, over=hours(1)),
        max(readings.temperature_mc, by=device, over=hours(1)),
        first(readings.battery_mv, by=device, over=days(1)),
        last(readings.temperature_mc, by=device, over=hours(1), delay=minutes(30)),
        seconds_between(by=device, over=hours(1)),
        seconds_since_last(by=device, over=days(1)),
        mean(readings.temperature_mc, by=site, over=minutes(10)),
        std(readings.temperature_mc, by=site, over=hours(1)),
        min(readings.temperature_mc, by=site, over=hours(6)),
        max(readings.temperature_mc, by=site, over=hours(6)),
        count(by=site, over=hours(1)),
        count(by=site, over=hours(1), where=readings.temperature_mc >= HOT_MC),
        (
            count(by=site, over=hours(1), where=readings.temperature_mc >= HOT_MC)
            / count(by=site, over=hours(1))
        ).named("site_hot_share"),
    ],
)
