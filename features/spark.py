"""The Spark session of batch jobs: small, quiet, on this machine only, able to read the lake.

Spark reads Delta tables and calls the same Python code as the stream; it never computes a window
itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import features
from features.errors import ServiceUnavailableError
from features.settings import settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DELTA_PACKAGE = "io.delta:delta-spark_4.1_2.13:4.4.0"
MASTER = "local[2]"
DRIVER_MEMORY = "1g"
SHUFFLE_PARTITIONS = 4
"""Few: every partition costs a task and, in a date-partitioned table, a file per day."""

ARROW_ROWS_PER_BATCH = 50_000
"""Large enough that the cost of a call of the fold vanishes; such a batch is a few MB."""

# A job lasts a minute and its heavy work is Python: the optimising compiler never pays off.
_SHORT_LIVED_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"


@contextmanager
def session(app: str) -> Iterator[SparkSession]:
    """A Spark session that ends with the block.

    Raises:
        ServiceUnavailableError: Java or the Delta jars are not there.
    """
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    found = settings()
    if found.java_home:
        os.environ["JAVA_HOME"] = found.java_home
    # The workers run what the driver runs, with the same packages.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    # Without it Spark looks the host name up and warns about the loopback address.
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.appName(app).master(MASTER)
    for name, value in _options(found.spark_ivy_home).items():
        builder = builder.config(name, value)
    try:
        spark = builder.getOrCreate()
    except PySparkRuntimeError as error:
        raise ServiceUnavailableError(
            f"Spark did not start with JAVA_HOME={os.environ.get('JAVA_HOME', '')!r}: {error}; "
            "set PENSTOCK_JAVA_HOME to a Java 17 or newer, or run `penstock up` once"
        ) from error
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()
        _end_java()


def _end_java() -> None:
    """End the Java process, which `stop` leaves running until this process ends."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    SparkContext._gateway = SparkContext._jvm = None
    gateway.shutdown()
    # It watches for the end of its input.
    gateway.proc.stdin.close()
    gateway.proc.wait()


def _options(jar_folder: str) -> dict[str, str]:
    options = {
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.shuffle.partitions": str(SHUFFLE_PARTITIONS),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(ARROW_ROWS_PER_BATCH),
        "spark.driver.memory": DRIVER_MEMORY,
        "spark.driver.extraJavaOptions": _SHORT_LIVED_JVM,
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.executorEnv.PYTHONPATH": str(Path(features.__path__[0]).parent),
    }
    jars = sorted(Path(jar_folder).glob("*.jar")) if jar_folder else []
    if jars:
        options["spark.jars"] = ",".join(str(jar) for jar in jars)
    else:
        options["spark.jars.packages"] = DELTA_PACKAGE
        if jar_folder:
            options["spark.jars.ivy"] = jar_folder
    return options
