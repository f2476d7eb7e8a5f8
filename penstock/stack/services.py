"""Our own services as parts: each is `penstock run NAME` and shows its metrics on its own port."""

from penstock.stack.part import Part, Probe
from penstock.stack.site import Site


def _service(
    name: str,
    title: str,
    memory_mib: int,
    depends_on: tuple[str, ...] = (),
    companions: tuple[str, ...] = (),
    page_port: int = 0,
) -> Part:
    def command(site: Site) -> list[str]:
        return [str(site.python), "-m", "penstock.cli", "run", name]

    def environment(site: Site) -> dict[str, str]:
        ports = {"PENSTOCK_METRICS_PORT": str(site.port(name, "metrics"))}
        if page_port:
            ports["PENSTOCK_PAGE_PORT"] = str(site.port(name, "http"))
        return site.environment() | ports

    return Part(
        name=name,
        title=title,
        command=command,
        environment=environment,
        probe=Probe("http", "metrics", "/metrics"),
        memory_mib=memory_mib,
        ports={"metrics": _METRICS_PORTS[name]} | ({"http": page_port} if page_port else {}),
        depends_on=depends_on,
        companions=companions,
    )


_METRICS_PORTS = {
    "ingest": 9401,
    "stages": 9402,
    "online-store": 9403,
    "scorer": 9404,
    "lake-sink": 9405,
    "page-recorder": 9406,
}

SERVICE_PARTS = (
    _service("ingest", "Ingest: contract, lateness, tokens", 256, ("kafka", "registry")),
    _service("stages", "Stages: windows by entity", 448, ("kafka",)),
    _service("online-store", "Online store sink", 192, ("kafka", "redis")),
    _service("scorer", "Scorer", 448, ("kafka",), companions=("mlflow",)),
    _service("lake-sink", "Lake sink", 320, ("kafka",)),
    _service("page-recorder", "Receiver of pages", 96, page_port=9407),
)
