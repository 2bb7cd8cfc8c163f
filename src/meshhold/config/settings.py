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
MAX_PUT_DEFAULT: Final = 5 * GIB  # S3's own limit for one PUT; bodies stream, so memory sets no lower one


@dataclass(frozen=True, slots=True)
class S3Config:
    """The S3 door. `listen_addr` is `host:port`; `max_put_bytes` bounds the body of one PUT or part."""

    enabled: bool = True
    listen_addr: str = S3_LISTEN_DEFAULT
    region: str = REGION_DEFAULT
    max_put_bytes: int = MAX_PUT_DEFAULT


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The listener for browsers. `hosts` maps host names to buckets; `root_domain` makes `bucket.root_domain` one."""

    enabled: bool = False
    listen_addr: str = WEB_LISTEN_DEFAULT
    root_domain: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """This machine's part: where it stores, where peers reach it, how much it offers.

    `capacity` is in bytes; None means whatever the disk has. `name` is what people see; it need not be unique.
    `advertise_addrs` are where others dial this node, in place of what it finds out itself; `mdns` lets it find others
    on the LAN and be found, `upnp` asks the router for a port.
    """

    data_dir: Path
    listen_addr: str = NODE_LISTEN_DEFAULT
    capacity: int | None = None
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
