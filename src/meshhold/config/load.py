"""Which keys may a configuration hold, and what does each mean? Knows no network and starts nothing."""

from __future__ import annotations

import re
import socket
import stat
from pathlib import Path
from typing import Final

from meshhold.config.document import Section, Value, open_document, parse_integer
from meshhold.config.settings import (
    CACHE_SIZE_DEFAULT,
    DAY_S,
    LOG_BYTES_DEFAULT,
    LOG_FILES_DEFAULT,
    LOG_FORMATS,
    MAX_PUT_DEFAULT,
    NODE_LISTEN_DEFAULT,
    REGION_DEFAULT,
    REPAIR_RATE_DEFAULT,
    S3_LISTEN_DEFAULT,
    SCRUB_RATE_DEFAULT,
    STAND_IN_AFTER_DEFAULT,
    WEB_LISTEN_DEFAULT,
    ZONE_DEFAULT,
    Config,
    NodeConfig,
    RepairConfig,
    S3Config,
    WebConfig,
)
from meshhold.config.values import parse_duration, parse_rate, parse_size, split_address
from meshhold.crypto.random import parse_swarm_key
from meshhold.errors import InvalidError
from meshhold.model.ids import check_bucket_name

OBJECT_BYTES_MAX: Final = 5 * 1024**4  # S3's largest object: a single PUT beyond it could never be stored
CAPACITY_MIN: Final = 1024**2  # one chunk
CAPACITY_MAX: Final = 2**60
LOG_BYTES_MIN: Final = 1024**2  # one batch of lines
LOG_FILES_MAX: Final = 100
RATE_MIN: Final = 100_000  # of 1 TB, three copies would take ten weeks to make again: slower is no repair
RATE_MAX: Final = 10**12
STAND_IN_MIN_S: Final = 60  # a restart, and a link that is made anew, must not move a machine's whole share
STAND_IN_MAX_S: Final = 30 * 86_400
_RATE: Final = 'bytes per second, 100kB to 1TB, such as "50 MB" or 50000000'
_STAND_IN: Final = 'a number with s, min, h or d, 1min to 30d, such as "90min" or "1h"'
_ADDRESS: Final = 'host:port, such as "127.0.0.1:3900" or "[::1]:3900"'
_SIZE: Final = 'bytes, or a number with a unit, such as 67108864, "64MiB" or "500GiB"'
_LABEL: Final = "1 to 64 printable characters"
_DOMAIN_ALLOWED: Final = 'a domain without port, such as "example.com"'
_REGION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_KEY_FILE_START: Final = "/key/swarm/"
_DOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*\Z")
_HEX_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}\Z")
_LOG_PATH: Final = 'the path of a file, or "" for no log'
_S3_KEYS: Final = (
    "enabled",
    "listen_addr",
    "region",
    "max_put_bytes",
    "access_log",
    "access_log_format",
    "access_log_bytes",
    "access_log_files",
    "lifecycle_day_s",
)
_NODE_KEYS: Final = (
    "data_dir",
    "listen_addr",
    "capacity",
    "cache_size",
    "zone",
    "reliable",
    "name",
    "advertise_addrs",
    "mdns",
    "upnp",
    "s3",
    "web",
    "repair",
)
_WEB_KEYS: Final = ("enabled", "listen_addr", "root_domain", "hosts")
_REPAIR_KEYS: Final = ("bytes_per_s", "scrub_bytes_per_s", "stand_in_after")
_TOP_KEYS: Final = ("swarm_key", "bootstrap_peers", "node")
_MISPLACED: Final = (
    {name: f"it belongs under node: as node.{name}" for name in _NODE_KEYS if name != "listen_addr"}
    | {name: f"it belongs under node: s3: as node.s3.{name}" for name in _S3_KEYS if name != "listen_addr"}
    | {name: f"it belongs under node: repair: as node.repair.{name}" for name in _REPAIR_KEYS}
    | {"listen_addr": "indent it: node.listen_addr is for peers, node.s3.listen_addr for S3 clients"}
)
_MISPLACED_IN_NODE: Final = (
    {name: f"it belongs under s3: as node.s3.{name}" for name in ("enabled", "region", "max_put_bytes")}
    | {name: f"it belongs under repair: as node.repair.{name}" for name in _REPAIR_KEYS}
    | {name: f"write {name} without indentation, outside node:" for name in ("swarm_key", "bootstrap_peers")}
)


def load_config(path: Path) -> Config:
    """Read and check one node's configuration; relative paths in it are taken from its folder.

    Errors: `ConfigError` for the first key that is unknown, given twice, ill-typed or out of range, naming file, line,
    key, what was found and what is allowed.
    """
    path = path.expanduser().absolute()
    top = Section(open_document(path), _TOP_KEYS, _MISPLACED)
    node = Section(top.get("node"), _NODE_KEYS, _MISPLACED_IN_NODE)
    s3 = Section(node.get("s3"), _S3_KEYS)
    web = Section(node.get("web"), _WEB_KEYS)
    repair = Section(node.get("repair"), _REPAIR_KEYS)
    return Config(
        path=path,
        swarm_key=_swarm_key(top.get("swarm_key"), path.parent),
        bootstrap_peers=_peers(top.get("bootstrap_peers")),
        node=NodeConfig(
            data_dir=_folder(node.get("data_dir"), path.parent),
            listen_addr=_address(node.get("listen_addr"), NODE_LISTEN_DEFAULT),
            capacity=_size(node.get("capacity"), CAPACITY_MIN, CAPACITY_MAX),
            cache_size=_cache_size(node.get("cache_size")),
            zone=_label(node.get("zone")) or ZONE_DEFAULT,
            reliable=_flag(node.get("reliable"), default=True),
            name=_label(node.get("name")) or socket.gethostname()[:64] or "node",
            advertise_addrs=_peers(node.get("advertise_addrs")),
            mdns=_flag(node.get("mdns"), default=True),
            upnp=_flag(node.get("upnp"), default=True),
        ),
        s3=S3Config(
            enabled=_flag(s3.get("enabled"), default=True),
            listen_addr=_address(s3.get("listen_addr"), S3_LISTEN_DEFAULT),
            region=_region(s3.get("region")),
            max_put_bytes=_size(s3.get("max_put_bytes"), 1, OBJECT_BYTES_MAX) or MAX_PUT_DEFAULT,
            access_log=_file(s3.get("access_log"), path.parent),
            access_log_format=_one_of(s3.get("access_log_format"), LOG_FORMATS),
            access_log_bytes=_size(s3.get("access_log_bytes"), LOG_BYTES_MIN, CAPACITY_MAX) or LOG_BYTES_DEFAULT,
            access_log_files=_number(s3.get("access_log_files"), 1, LOG_FILES_MAX) or LOG_FILES_DEFAULT,
            lifecycle_day_s=_number(s3.get("lifecycle_day_s"), 1, DAY_S) or DAY_S,
        ),
        web=WebConfig(
            enabled=_flag(web.get("enabled"), default=False),
            listen_addr=_address(web.get("listen_addr"), WEB_LISTEN_DEFAULT),
            root_domain=_domain(web.get("root_domain")),
            hosts=_hosts(web.get("hosts")),
        ),
        repair=RepairConfig(
            bytes_per_s=_rate(repair.get("bytes_per_s"), REPAIR_RATE_DEFAULT),
            scrub_bytes_per_s=_rate(repair.get("scrub_bytes_per_s"), SCRUB_RATE_DEFAULT),
            stand_in_after_s=_stand_in(repair.get("stand_in_after")),
        ),
    )


def config_warnings(config: Config) -> list[str]:
    """Return what is allowed but unwise, one sentence each: who can read the key, who can reach the S3 door."""
    found = []
    if config.swarm_key is not None and config.path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        found.append(
            f"{config.path} holds the swarm key and other users of this machine can read it: chmod 600 {config.path}"
        )
    host, _ = split_address(config.s3.listen_addr)
    if config.s3.enabled and host != "localhost" and not host.startswith("127.") and host != "::1":
        found.append(
            f"node.s3.listen_addr {config.s3.listen_addr} is reachable from other machines over plain HTTP: "
            "bind it to 127.0.0.1 and put nginx with TLS in front"
        )
    if config.swarm_key is None and config.bootstrap_peers:
        found.append("bootstrap_peers is ignored: without a swarm_key this node has no mesh")
    return found


def _swarm_key(value: Value | None, folder: Path) -> bytes | None:
    allowed = "empty, the text of a key file, 64 hex digits, or the path of a key file (print one: meshhold keygen)"
    if value is None:
        return None
    # a key of digits alone is a number to YAML, so the text is taken as it was written
    text = value.plain(allowed).strip()
    if not text:
        return None
    if not text.startswith(_KEY_FILE_START) and not _HEX_KEY.match(text):
        if "/" not in text and "." not in text:
            raise value.refused("neither a key nor the path of a key file", allowed)
        file = folder / Path(text).expanduser()
        try:
            with file.open(encoding="ascii") as opened:
                text = opened.read(4096)
        except (OSError, ValueError) as error:
            raise value.refused(f"the path {file}, which cannot be read ({_cause(error)})", allowed) from None
    try:
        return parse_swarm_key(text)
    except InvalidError as error:
        raise value.refused(f"refused: {error.message}", allowed) from None


def _cause(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "not a text"


def _peers(value: Value | None) -> tuple[str, ...]:
    if value is None:
        return ()
    found = []
    for item in value.items('a list of addresses, such as ["203.0.113.5:7777"]'):
        text = item.text(_ADDRESS)
        _, port = item.read(split_address, text, _ADDRESS)
        if port == 0:
            raise item.refused(repr(text), "a port from 1 to 65535")
        found.append(text)
    return tuple(found)


def _folder(value: Value | None, folder: Path) -> Path:
    text = value.text("the path of a folder") if value else "."
    if value and ("\0" in text or not text.strip()):
        raise value.refused(repr(text), "the path of a folder")
    return Path(folder / Path(text).expanduser()).absolute()


def _address(value: Value | None, default: str) -> str:
    if value is None:
        return default
    text = value.text(_ADDRESS)
    value.read(split_address, text, _ADDRESS)
    return text


def _size(value: Value | None, least: int, most: int) -> int | None:
    if value is None:
        return None
    reader = parse_integer if value.kind == "int" else parse_size
    found = value.read(reader, value.plain(_SIZE), _SIZE)
    if not least <= found <= most:
        raise value.refused(f"{found} bytes", f"{least} to {most} bytes")
    return found


def _cache_size(value: Value | None) -> int:
    found = _size(value, 0, CAPACITY_MAX)
    return CACHE_SIZE_DEFAULT if found is None else found


def _rate(value: Value | None, default: int) -> int:
    if value is None:
        return default
    found = value.read(parse_integer if value.kind == "int" else parse_rate, value.plain(_RATE), _RATE)
    if not RATE_MIN <= found <= RATE_MAX:
        raise value.refused(f"{found} bytes per second", _RATE)
    return found


def _stand_in(value: Value | None) -> int:
    if value is None:
        return STAND_IN_AFTER_DEFAULT
    found = value.read(parse_duration, value.plain(_STAND_IN), _STAND_IN)
    if not STAND_IN_MIN_S <= found <= STAND_IN_MAX_S:
        raise value.refused(repr(value.plain(_STAND_IN)), _STAND_IN)
    return found


def _file(value: Value | None, folder: Path) -> Path | None:
    """Return the path of a file; None where nothing, `""` or `off` stands."""
    if value is None or (value.kind == "bool" and not value.boolean()):
        return None
    text = value.text(_LOG_PATH)
    if "\0" in text:
        raise value.refused(repr(text), _LOG_PATH)
    return Path(folder / Path(text).expanduser()).absolute() if text.strip() else None


def _one_of(value: Value | None, allowed: tuple[str, ...]) -> str:
    """Return one of the words that are allowed; the first one is the default."""
    if value is None:
        return allowed[0]
    text = value.text(" or ".join(allowed))
    if text not in allowed:
        raise value.refused(repr(text), " or ".join(allowed))
    return text


def _number(value: Value | None, least: int, most: int) -> int | None:
    if value is None:
        return None
    allowed = f"a whole number, {least} to {most}"
    found = value.read(parse_integer, value.plain(allowed), allowed)
    if not least <= found <= most:
        raise value.refused(str(found), allowed)
    return found


def _flag(value: Value | None, *, default: bool) -> bool:
    return default if value is None else value.boolean()


def _label(value: Value | None) -> str | None:
    if value is None:
        return None
    text = value.text(_LABEL)
    if not (0 < len(text) <= 64 and text.isprintable() and text.strip()):
        raise value.refused(repr(text[:64]), _LABEL)
    return text


def _region(value: Value | None) -> str:
    if value is None:
        return REGION_DEFAULT
    text = value.text("a region name")
    if not _REGION.match(text):
        raise value.refused(repr(text[:64]), "1 to 63 letters, digits, '.', '_' and '-', such as meshhold or us-east-1")
    return text


def _domain(value: Value | None) -> str:
    if value is None:
        return ""
    text = value.text(_DOMAIN_ALLOWED)
    if text and not _DOMAIN.match(text):
        raise value.refused(repr(text[:64]), _DOMAIN_ALLOWED)
    return text.lower()


def _hosts(value: Value | None) -> dict[str, str]:
    found: dict[str, str] = {}
    if value is None:
        return found
    for name, bucket in value.pairs("host names and buckets, such as www.example.com: my-site"):
        host = name.text(_DOMAIN_ALLOWED).lower()
        if not _DOMAIN.match(host):
            raise name.refused(repr(host[:64]), _DOMAIN_ALLOWED)
        if host in found:
            raise name.refused(f"{host!r} a second time", "each host name once")
        found[host] = bucket.read(_bucket_name, bucket.text("the name of a bucket"), "the name of a bucket")
    return found


def _bucket_name(text: str) -> str:
    try:
        return check_bucket_name(text)
    except InvalidError as error:
        raise ValueError(str(error)) from None
