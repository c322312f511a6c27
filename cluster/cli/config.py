"""Settings of `kvnode`: one name per option in flags, environment, TOML and code, and which source wins.

    flag  >  KVNODE_* environment variable  >  TOML file  >  default

Pure: the caller reads the environment and the file. Every mistake becomes a `ConfigError` that names where it was made.

Invariants
  1. An unknown TOML key is an error that lists the known ones: a typo never silently means the default.
  2. An address that other machines can reach needs `insecure`: this version has neither TLS nor authentication.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kvstore.errors import ConfigError

__all__ = ["ENVIRONMENT_PREFIX", "NodeSettings", "check_address", "read_toml", "settle"]

ENVIRONMENT_PREFIX = "KVNODE_"
PARTITIONS_COUNT_MAX = 65_536
Name = Annotated[str, Meta(min_length=1, max_length=64)]


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `kvnode` can be told, checked. `data` is required; the rest has a default that works on a laptop."""

    data: Annotated[str, Meta(min_length=1)]
    run_dir: Annotated[str, Meta(min_length=1)] | None = None
    listen: str = "127.0.0.1:7400"
    advertise: str | None = None
    join: tuple[str, ...] = ()
    replace: Annotated[str, Meta(pattern="^([0-9a-fA-F]{2,16})?$")] = ""
    zone: Name = "default"
    weight: Annotated[int, Meta(ge=1, le=1_000)] = 1
    cluster_name: Name = "dev"
    n: Annotated[int, Meta(ge=1, le=9)] = 3
    partitions: Annotated[int, Meta(ge=1, le=PARTITIONS_COUNT_MAX)] = 256
    max_clock_skew_ms: Annotated[int, Meta(ge=1)] = 2_000
    moved: bool = False
    lane_port: Annotated[int, Meta(ge=-1, le=65_535)] = 0
    record_cache_mb: Annotated[int, Meta(ge=0)] = 64
    join_timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    insecure: bool = False

    @property
    def partition_bits(self) -> int:
        """log2 of `partitions`."""
        return self.partitions.bit_length() - 1


def settle(
    flags: Mapping[str, Any], environment: Mapping[str, str], document: Mapping[str, Any], *, source: str = "TOML"
) -> NodeSettings:
    """Merge the three sources into checked settings, or raise `ConfigError` naming the source of the mistake.

    `flags` holds only what was given on the command line; `document` is the parsed TOML file (empty without one).
    """
    known = NodeSettings.__struct_fields__
    from_file = _file_values(document, known, source)
    from_environment = _environment_values(environment, known)
    origins = dict.fromkeys(from_file, source)
    origins.update({name: f"environment variable {ENVIRONMENT_PREFIX}{name.upper()}" for name in from_environment})
    origins.update({name: f"flag --{name.replace('_', '-')}" for name in flags})
    merged = {**from_file, **from_environment, **flags}
    if "data" not in merged:
        raise ConfigError("missing option --data: the directory that holds this node's data (or KVNODE_DATA)")
    for name, value in merged.items():
        _check_one(name, value, origins[name])
    settings = msgspec.convert(merged, NodeSettings, strict=False)
    _check_together(settings, origins)
    return settings


def read_toml(text: str, source: str) -> dict[str, Any]:
    """Parse a TOML file's text; `source` names it in the error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{source} is not valid TOML: {problem}") from None


def check_address(address: str, origin: str, *, insecure: bool) -> tuple[str, int]:
    """Split `host:port`, refusing what is malformed and, without `insecure`, what other machines can reach."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65_536):
        raise ConfigError(f"{origin}: {address!r} is not HOST:PORT")
    if not insecure and not _is_loopback(host.strip("[]")):
        raise ConfigError(
            f"{origin}: {address} can be reached from other machines, and TLS and authentication are not in this version."
            " Listen on 127.0.0.1, or pass --insecure if the network itself is trusted"
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: what it resolves to tomorrow is not ours to know


def _file_values(document: Mapping[str, Any], known: tuple[str, ...], source: str) -> dict[str, Any]:
    values = {name.replace("-", "_"): value for name, value in document.items()}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"{source}: unknown key {', '.join(unknown)}; known keys are {', '.join(known)}")
    return values


def _environment_values(environment: Mapping[str, str], known: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in known:
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        if text is not None:
            values[name] = [part.strip() for part in text.split(",") if part.strip()] if name == "join" else text
    return values


def _check_one(name: str, value: Any, origin: str) -> None:
    kind = next(field.type for field in msgspec.structs.fields(NodeSettings) if field.name == name)
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as problem:
        raise ConfigError(f"{origin}: {problem}") from None


def _check_together(settings: NodeSettings, origins: Mapping[str, str]) -> None:
    if settings.partitions.bit_count() != 1:
        raise ConfigError(f"{origins['partitions']}: {settings.partitions} partitions is not a power of two")
    check_address(settings.listen, origins.get("listen", "default"), insecure=settings.insecure)
    if settings.advertise is not None:
        _, port = check_address(settings.advertise, origins["advertise"], insecure=settings.insecure)
        if port == 0:
            raise ConfigError(f"{origins['advertise']}: others cannot connect to port 0")
    if settings.replace and not settings.join:
        raise ConfigError(f"{origins['replace']}: a node that replaces another one needs --join to find the cluster")
    for seed in settings.join:
        check_address(seed, origins["join"], insecure=True)  # whom we call is not who can call us
