"""`init`, `keygen`: a node comes into being."""

from __future__ import annotations

import os
from pathlib import Path

import click

from meshhold.cli.new_node import create_node
from meshhold.cli.session import Session, command_line, config_option
from meshhold.config import default_home
from meshhold.config.places import CONFIG_NAME, CONFIG_VARIABLE
from meshhold.config.settings import NODE_LISTEN_DEFAULT, S3_LISTEN_DEFAULT
from meshhold.crypto.random import new_swarm_key_file


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where the node lives.")
@click.option("--listen-addr", default=NODE_LISTEN_DEFAULT, show_default=True, metavar="HOST:PORT", help="For peers.")
@click.option("--s3-addr", default=S3_LISTEN_DEFAULT, show_default=True, metavar="HOST:PORT", help="For S3 clients.")
@config_option
@click.pass_obj
def init(session: Session, data_dir: Path | None, listen_addr: str, s3_addr: str) -> None:
    """Create a node: write DIR/config.yaml (default: ~/.meshhold). Never overwrites one."""
    folder = data_dir.expanduser().absolute() if data_dir else None
    if session.named_config:
        path = session.named_config
    elif folder is None and os.environ.get(CONFIG_VARIABLE):
        path = session.config_path
    else:
        path = (folder or default_home()) / CONFIG_NAME
    create_node(path, folder or path.parent, listen_addr, s3_addr)
    print(f"created {path}")
    print(f"start the node with: {command_line(path, 'daemon')}")


@click.command()
def keygen() -> None:
    """Print a new swarm key. Every node of one mesh holds the same; keep it secret."""
    print(new_swarm_key_file(), end="")
