"""`init`, `status`, `keygen`: a node comes into being and says how it is."""

from __future__ import annotations

import os
from pathlib import Path

import click

from meshhold.cli.new_node import create_node
from meshhold.cli.output import SHORT_LENGTH, duration_text, print_fields, print_json, size_text
from meshhold.cli.session import Session, client_options, command_line, config_option
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
@client_options
@click.pass_obj
def status(session: Session) -> None:
    """Show the running node."""
    found = session.call("status")
    if session.as_json:
        print_json(found)
        return
    print_fields(
        [
            ("node", f"{found['name']} ({found['node_id'][:SHORT_LENGTH]})"),
            ("version", found["version"]),
            ("up for", duration_text(found["uptime_s"])),
            ("data", found["data_dir"]),
            ("S3 endpoint", f"http://{found['s3_addr']}" if found["s3_addr"] else "off"),
            ("region", found["region"]),
            ("disk", f"{size_text(found['disk_free'])} free of {size_text(found['disk_total'])}"),
            ("vaults", found["vaults"]),
            ("objects", found["objects"]),
            ("mesh", found["mesh"]),
        ]
    )


@click.command()
def keygen() -> None:
    """Print a new swarm key. Every node of one mesh holds the same; keep it secret."""
    print(new_swarm_key_file(), end="")
