"""What every service of ours does around its work: stop on SIGTERM, show metrics, say one sentence.

`penstock run NAME` has set up logging before; a service started by its module does it here.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable

from confluent_kafka import KafkaException

from features.errors import PenstockError
from features.settings import settings
from monitoring import metrics

log = logging.getLogger(__name__)


def set_up_logging() -> None:
    """Log lines go to standard error."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )


def run_service(name: str, work: Callable[[threading.Event], None]) -> None:
    """Run a service's loop until SIGTERM or SIGINT sets the event it is given.

    Args:
        name: for the log.
        work: returns soon after its event is set.
    """
    set_up_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        metrics.serve(settings().metrics_port, settings().bind_host)
        log.info("%s: starting", name)
        work(stop)
        log.info("%s: stopped", name)
    except (PenstockError, ValueError) as error:
        log.critical("%s: %s", name, error)
        sys.exit(1)
    except KafkaException as error:
        log.critical("%s: Kafka at %s: %s", name, settings().kafka_bootstrap, error.args[0].str())
        sys.exit(1)
