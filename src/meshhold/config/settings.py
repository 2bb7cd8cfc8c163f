"""The frozen values that a configuration yields, with each key's default. Knows no file and no YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

GIB: Final = 1024**3
S3_LISTEN_DEFAULT: Final = "127.0.0.1:3900"
WEB_LISTEN_DEFAULT: Final = "127.0.0.1:3902"
NODE_LISTEN_DEFAULT: Final = "[::]:7777"  # IPv4 too, where the system maps it
REGION_DEFAULT: Final = "meshhold"
ZONE_DEFAULT: Final = "default"
LOG_FORMATS: Final = ("combined", "json")
LOG_BYTES_DEFAULT: Final = 64 * 1024**2  # with five files 320 MiB: some two million requests
LOG_FILES_DEFAULT: Final = 5
DAY_S: Final = 86_400
REPAIR_RATE_DEFAULT: Final = 500_000_000  # a line of 1 Gbit/s is full before that
SCRUB_RATE_DEFAULT: Final = 20 * 1024**2  # a terabyte takes half a day and leaves the disk to the apps
STAND_IN_AFTER_DEFAULT: Final = 3600
CACHE_SIZE_DEFAULT: Final = GIB  # some 25,000 pictures; a small disk has it to spare or gets it back
MAX_PUT_DEFAULT: Final = 5 * GIB  # S3's own limit for one PUT; bodies stream, so memory sets no lower one


@dataclass(frozen=True, slots=True)
class S3Config:
    """The S3 door. `listen_addr` is `host:port`; `max_put_bytes` bounds the body of one PUT or part.

    `access_log` is the file of the log of requests, None for none; `access_log_format` is one of `LOG_FORMATS`. A file
    that would exceed `access_log_bytes` gives way to a new one, and `access_log_files` are kept. `lifecycle_day_s` is
    how many seconds the rules of lifecycles take for a day, another number than a day's only for tests.
    """

    enabled: bool = True
    listen_addr: str = S3_LISTEN_DEFAULT
    region: str = REGION_DEFAULT
    max_put_bytes: int = MAX_PUT_DEFAULT
    access_log: Path | None = None
    access_log_format: str = LOG_FORMATS[0]
    access_log_bytes: int = LOG_BYTES_DEFAULT
    access_log_files: int = LOG_FILES_DEFAULT
    lifecycle_day_s: int = DAY_S


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The listener for browsers. `hosts` maps host names to buckets; `root_domain` makes `bucket.root_domain` one."""

    enabled: bool = False
    listen_addr: str = WEB_LISTEN_DEFAULT
    root_domain: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RepairConfig:
    """How copies are kept. `bytes_per_s`: repair and rebalancing of this node; `scrub_bytes_per_s`: scheduled scrubs.

    `stand_in_after_s`: how long another member is away before its chunks are made anew elsewhere.
    """

    bytes_per_s: int = REPAIR_RATE_DEFAULT
    scrub_bytes_per_s: int = SCRUB_RATE_DEFAULT
    stand_in_after_s: int = STAND_IN_AFTER_DEFAULT


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """This machine's part: where it stores, where peers reach it, how much it offers.

    `capacity` is in bytes; None means whatever the disk has. `cache_size` bounds, in bytes, the copies for reading of
    chunks that others keep; 0: none. `name` is what people see; it need not be unique.
    `advertise_addrs` are where others dial this node, in place of what it finds out itself; `mdns` lets it find others
    on the LAN and be found, `upnp` asks the router for a port.
    """

    data_dir: Path
    listen_addr: str = NODE_LISTEN_DEFAULT
    capacity: int | None = None
    cache_size: int = CACHE_SIZE_DEFAULT
    zone: str = ZONE_DEFAULT
    reliable: bool = True
    name: str = ""
    advertise_addrs: tuple[str, ...] = ()
    mdns: bool = True
    upnp: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """One node's configuration. `path` is the file that it came from; `swarm_key` None means no mesh at all."""

    path: Path
    swarm_key: bytes | None = field(repr=False)
    bootstrap_peers: tuple[str, ...]
    node: NodeConfig
    s3: S3Config
    web: WebConfig = field(default_factory=WebConfig)
    repair: RepairConfig = field(default_factory=RepairConfig)
