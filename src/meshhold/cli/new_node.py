"""What does a fresh node's configuration say, and how does it get to disk whole? Starts nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from meshhold.config import load_config
from meshhold.config.settings import REGION_DEFAULT
from meshhold.errors import ConfigError, ConflictError

_TEMPLATE: Final = """\
# A MeshHold node. Every key and its default: config.yaml.sample; restart the daemon after a change.

# Nodes that share this key form a mesh; empty: no mesh, this machine alone. Make one with: meshhold keygen
swarm_key: ""
bootstrap_peers: []

node:
  data_dir: {data_dir}
  listen_addr: {listen_addr}
  s3:
    enabled: true
    listen_addr: {s3_addr}
    region: {region}
"""


def create_node(path: Path, data_dir: Path, listen_addr: str, s3_addr: str) -> None:
    """Write the configuration of a new node to `path`, readable by its owner only, durably and all or nothing.

    Errors: `ConflictError` where `path` exists; `ConfigError` for an address that is none, and nothing is left behind.
    """
    if path.exists():
        raise ConflictError(f"{path} exists already: there is a node here", "use another folder, or start this node")
    for folder in (path.parent, data_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = _TEMPLATE.format(
        data_dir=json.dumps("." if data_dir == path.parent else str(data_dir)),  # JSON's texts are YAML's
        listen_addr=json.dumps(listen_addr),
        s3_addr=json.dumps(s3_addr),
        region=json.dumps(REGION_DEFAULT),
    )
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_durably(fresh, text)
        load_config(fresh)
        os.link(fresh, path)  # unlike a rename, it fails where another one was quicker
    except FileExistsError:
        raise ConflictError(f"{path} exists already: there is a node here", "start this node") from None
    except ConfigError as error:
        _, _, cause = error.message.partition(": ")
        raise ConfigError(f"the new node's {cause}", error.fix) from None
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_durably(path: Path, text: str) -> None:
    """Write a file with mode 0600 and wait until its bytes are on disk; its name is durable after `sync_folder`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
