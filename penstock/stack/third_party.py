"""The parts that other people wrote: broker, registry, stores, model registry, alerting."""

from collections.abc import Callable
from pathlib import Path

from penstock.stack.alerting import alertmanager_files, prometheus_files
from penstock.stack.part import Part, Probe
from penstock.stack.site import Site

# Small services start faster and stay smaller with the first compiler and the serial collector.
_SMALL_JVM = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]


def _kafka_java(site: Site) -> list[str]:
    return [
        str(site.java),
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={site.config('kafka') / 'log4j2.yaml'}",
        "-cp",
        f"{site.tools['kafka-jars']}/*",
    ]


def _kafka_command(site: Site) -> list[str]:
    java, *options = _kafka_java(site)
    heap = ["-Xms128m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
    return [java, *heap, *options, "kafka.Kafka", str(site.config("kafka") / "server.properties")]


def _kafka_prepare(site: Site) -> list[list[str]]:
    java, *options = _kafka_java(site)
    properties = str(site.config("kafka") / "server.properties")
    cluster = site.secrets.kafka_cluster_id
    fast = [*_SMALL_JVM, "-Xmx128m"]
    # One word: an id may begin with a dash.
    options_of_format = [f"--cluster-id={cluster}", f"--config={properties}", "--ignore-formatted"]
    tool = ["kafka.tools.StorageTool", "format"]
    return [[java, *fast, *options, *tool, *options_of_format]]


def _kafka_files(site: Site) -> dict[str, str]:
    bind, client = site.bind_host, site.port("kafka", "client")
    controller = site.port("kafka", "controller")
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{site.host('kafka')}:{controller}",
        "listeners": f"PLAINTEXT://{bind}:{client},CONTROLLER://{bind}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{site.address('kafka', 'client')}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(site.data("kafka")),
        "auto.create.topics.enable": "false",
        "delete.topic.enable": "true",
        # One broker: every internal topic has one copy, and few partitions start faster.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        # A lone consumer need not wait for others to join its group.
        "group.initial.rebalance.delay.ms": "0",
        "num.network.threads": "2",
        "num.io.threads": "4",
        # The default cleaner alone takes 128 MB of heap.
        "log.cleaner.dedupe.buffer.size": "16777216",
        "log.segment.bytes": "134217728",
    }
    return {
        "server.properties": "".join(f"{key}={value}\n" for key, value in properties.items()),
        "log4j2.yaml": _LOG4J2,
    }


_LOG4J2 = """Configuration:
  status: "WARN"
  Appenders:
    Console:
      name: "OUT"
      target: "SYSTEM_OUT"
      PatternLayout:
        pattern: "[%d] %p %m (%c)%n"
  Loggers:
    Root:
      level: "WARN"
      AppenderRef:
        ref: "OUT"
    Logger:
      - name: "kafka.server.KafkaRaftServer"
        level: "INFO"
      - name: "kafka.coordinator.group"
        level: "INFO"
"""

KAFKA = Part(
    name="kafka",
    title="Apache Kafka",
    command=_kafka_command,
    files=_kafka_files,
    prepare=_kafka_prepare,
    probe=Probe("kafka", "client"),
    memory_mib=768,
    ports={"client": 9092, "controller": 9093},
    requires=("kafka-jars",),
    data="kafka",
    stop_seconds=20,
)


def _registry_command(site: Site) -> list[str]:
    options = {
        "quarkus.http.host": site.bind_host,
        "quarkus.http.port": site.port("registry", "http"),
        "quarkus.management.host": site.bind_host,
        "quarkus.management.port": site.port("registry", "management"),
        "quarkus.log.level": "WARN",
        "apicurio.datasource.url": f"jdbc:h2:file:{site.data('registry')}/registry",
        "apicurio.access.log.enabled": "false",
    }
    return [
        *(str(site.java), "-Xms48m", "-Xmx160m", *_SMALL_JVM),
        *(f"-D{key}={value}" for key, value in options.items()),
        *("-jar", str(site.tools["registry-app"] / "quarkus-run.jar")),
    ]


REGISTRY = Part(
    name="registry",
    title="Schema registry (Apicurio)",
    command=_registry_command,
    probe=Probe("http", "http", "/apis/ccompat/v7/subjects"),
    memory_mib=384,
    ports={"http": 8081, "management": 9000},
    requires=("registry-app",),
    data="registry",
    url_path="/apis/ccompat/v7",
)


def _redis_command(site: Site) -> list[str]:
    return [
        str(site.tools["redis-server"]),
        *("--bind", site.bind_host, "--port", str(site.port("redis", "client"))),
        *("--dir", str(site.data("redis")), "--daemonize", "no"),
        *("--appendonly", "yes", "--save", ""),
        # Up to here a hash is kept as a list: a key with six features takes 350 bytes, not 850. Its
        # longest value is a whole vector, eight bytes a column.
        *("--hash-max-ziplist-value", "512"),
    ]


REDIS = Part(
    name="redis",
    title="Redis",
    command=_redis_command,
    probe=Probe("redis", "client"),
    memory_mib=256,
    ports={"client": 6379},
    requires=("redis-server",),
    data="redis",
)


def _mlflow_command(site: Site) -> list[str]:
    address = [site.bind_host, str(site.port("mlflow", "http"))]
    return [str(site.python), "-m", "penstock.stack.mlflow_server", *address]


def _mlflow_environment(site: Site) -> dict[str, str]:
    data = site.data("mlflow")
    return {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{data}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(data / "artifacts"),
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"localhost:*,127.0.0.1:*,{site.host('mlflow')}:*",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


MLFLOW = Part(
    name="mlflow",
    title="MLflow",
    command=_mlflow_command,
    environment=_mlflow_environment,
    probe=Probe("http", "http", "/health"),
    memory_mib=640,
    ports={"http": 5000},
    data="mlflow",
    url_path="/",
)


def _package_root(tool: str) -> Callable[[Site], Path]:
    """Where `usr/share` of a tool's package lies: `/`, or the folder it was unpacked into."""

    def root(site: Site) -> Path:
        folder = site.tools[tool].parent
        return folder.parents[1] if folder.match("usr/bin") else site.project

    return root


def _prometheus_command(site: Site) -> list[str]:
    return [
        str(site.tools["prometheus"]),
        f"--config.file={site.config('prometheus') / 'prometheus.yml'}",
        f"--storage.tsdb.path={site.data('prometheus')}",
        f"--web.listen-address={site.bind_host}:{site.port('prometheus', 'http')}",
        "--log.level=warn",
    ]


PROMETHEUS = Part(
    name="prometheus",
    title="Prometheus",
    command=_prometheus_command,
    directory=_package_root("prometheus"),
    files=prometheus_files,
    probe=Probe("http", "http", "/-/ready"),
    memory_mib=192,
    ports={"http": 9090},
    requires=("prometheus",),
    data="prometheus",
    url_path="/",
)


def _alertmanager_command(site: Site) -> list[str]:
    return [
        str(site.tools["alertmanager"]),
        f"--config.file={site.config('alertmanager') / 'alertmanager.yml'}",
        f"--storage.path={site.data('alertmanager')}",
        f"--web.listen-address={site.bind_host}:{site.port('alertmanager', 'http')}",
        # One instance: no gossip, and so no port open to others.
        "--cluster.listen-address=",
        "--log.level=warn",
    ]


ALERTMANAGER = Part(
    name="alertmanager",
    title="Alertmanager",
    command=_alertmanager_command,
    directory=_package_root("alertmanager"),
    files=alertmanager_files,
    probe=Probe("http", "http", "/-/ready"),
    memory_mib=96,
    ports={"http": 9094},
    requires=("alertmanager",),
    data="alertmanager",
    url_path="/",
)
