"""Airflow's four components as parts; its standalone command would orphan them on its end."""

import json

from penstock.stack.part import Part, Probe
from penstock.stack.site import Site

_FOLDER = "airflow"


def airflow_environment(site: Site) -> dict[str, str]:
    """What every component, every task and the `airflow` command of this stack reads."""
    api = f"http://{site.address('airflow-api-server', 'http')}"
    settings = {
        "CORE__DAGS_FOLDER": str(site.project / "dags"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__MAX_ACTIVE_TASKS_PER_DAG": "2",
        "CORE__FERNET_KEY": site.secrets.fernet,
        "CORE__EXECUTION_API_SERVER_URL": f"{api}/execution/",
        # Whoever reaches this port owns the machine's session: a login would protect nothing.
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(site.data(_FOLDER) / "passwords.json"),
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{site.data(_FOLDER)}/airflow.db",
        "API__BASE_URL": api,
        "API__HOST": site.bind_host,
        "API__PORT": str(site.port("airflow-api-server", "http")),
        "API__SECRET_KEY": site.secrets.jwt,
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": site.secrets.jwt,
        "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "DAG_PROCESSOR__PRINT_STATS_INTERVAL": "0",
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "LOGGING__BASE_LOG_FOLDER": str(site.data(_FOLDER) / "logs"),
        "LOGGING__LOGGING_LEVEL": "INFO",
        # On a busy machine a first answer takes longer than the five seconds it is given.
        "WORKERS__EXECUTION_API_TIMEOUT": "30",
    }
    return (
        site.environment()
        | {f"AIRFLOW__{name}": value for name, value in settings.items()}
        | {
            "AIRFLOW_HOME": str(site.data(_FOLDER)),
            "AIRFLOW_CONN_PENSTOCK_KAFKA": _kafka_connection(site),
            "PYTHONPATH": str(site.project),
        }
    )


def _kafka_connection(site: Site) -> str:
    """The connection named in `dags/triggers.py`."""
    consumer = {
        "bootstrap.servers": site.address("kafka", "client"),
        "group.id": "penstock.airflow.drift",
        # Airflow commits an offset once it has stored the event; without a commit the topic is
        # read from its beginning, so an event sent while Airflow starts is not lost.
        "enable.auto.commit": "false",
        "auto.offset.reset": "earliest",
        # A triggerer that was killed is replaced after this, not after the usual 45 s.
        "session.timeout.ms": 10000,
        # How soon a topic that is made later is found.
        "topic.metadata.refresh.interval.ms": 5000,
    }
    return json.dumps({"conn_type": "kafka", "extra": consumer})


def _prepare(site: Site) -> list[list[str]]:
    return [[str(site.python), "-m", "airflow", "db", "migrate"]]


def _component(
    name: str,
    title: str,
    arguments: list[str],
    health: str,
    memory_mib: int,
    *,
    is_api: bool = False,
) -> Part:
    def command(site: Site) -> list[str]:
        return [str(site.python), "-m", "airflow", *arguments]

    return Part(
        name=name,
        title=title,
        command=command,
        environment=airflow_environment,
        prepare=_prepare,
        probe=Probe("http", "http", "/api/v2/version") if is_api else Probe("airflow", "", health),
        memory_mib=memory_mib,
        ports={"http": 8080} if is_api else {},
        companions=() if is_api else ("airflow-api-server",),
        data=_FOLDER,
        url_path="/" if is_api else None,
        stop_seconds=15,
    )


# The components serve their logs from files that the API server reads itself: without the
# log servers there is one process less each, and no port that listens on all addresses.
AIRFLOW_PARTS = (
    _component("airflow-api-server", "Airflow's API and UI", ["api-server"], "", 512, is_api=True),
    _component(
        "airflow-scheduler",
        "Airflow's scheduler",
        ["scheduler", "--skip-serve-logs"],
        "scheduler",
        384,
    ),
    _component(
        "airflow-dag-processor", "Airflow's DAG processor", ["dag-processor"], "dag_processor", 320
    ),
    _component(
        "airflow-triggerer",
        "Airflow's triggerer",
        ["triggerer", "--skip-serve-logs"],
        "triggerer",
        320,
    ),
)
