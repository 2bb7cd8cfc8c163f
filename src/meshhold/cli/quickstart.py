"""`quickstart`: from nothing to a bucket that S3 clients can use, in one command that may be repeated.

A first start that was interrupted is finished by the next: a marker beside the configuration is made before anything
else and removed after the credentials were printed. While it is there, a key minted earlier was never shown.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

import click

from meshhold.admin.client import call_daemon
from meshhold.cli.daemon import serve
from meshhold.cli.logs import start_logging
from meshhold.cli.new_node import create_node, sync_folder, write_durably
from meshhold.cli.session import command_line
from meshhold.config import Config, default_config_path, default_home, load_config
from meshhold.config.places import CONFIG_NAME, control_socket
from meshhold.config.settings import NODE_LISTEN_DEFAULT, S3_LISTEN_DEFAULT
from meshhold.errors import MeshHoldError

VAULT: Final = "my-vault"
BUCKET: Final = "my-bucket"
LABEL: Final = "quickstart"
MARKER: Final = ".quickstart-unfinished"


@click.command()
@click.option(
    "--home", type=click.Path(path_type=Path), metavar="DIR", help="The node's folder (default: ~/.meshhold)."
)
@click.option("--s3-addr", default=S3_LISTEN_DEFAULT, show_default=True, metavar="HOST:PORT", help="Of a new node.")
def quickstart(home: Path | None, s3_addr: str) -> int:
    """Create a node if there is none, start it, and print what an S3 client needs."""
    folder = home.expanduser().absolute() if home else default_home()
    path = folder / CONFIG_NAME
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(folder / MARKER, "the first start of this node was not finished\n")
        create_node(path, folder, NODE_LISTEN_DEFAULT, s3_addr)
    start_logging("warning", "console")
    config = load_config(path)
    failed = threading.Event()

    def furnish() -> None:
        try:
            print("\n".join(welcome_lines(config)), flush=True)
            remove_marker(folder)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: whatever it is, say so and stop the node
            print(f"meshhold: the node started but was not set up: {error}", file=sys.stderr, flush=True)
            failed.set()
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # else the node is ending already
                os.kill(os.getpid(), signal.SIGTERM)

    def on_ready() -> None:
        # the node's own loop must go on to answer, so a thread asks
        threading.Thread(target=furnish, name="quickstart", daemon=True).start()

    code = serve(config, on_ready=on_ready)
    return 1 if failed.is_set() else code


def remove_marker(folder: Path) -> None:
    """Note durably that the credentials were shown."""
    marker = folder / MARKER
    if marker.exists():
        marker.unlink()
        sync_folder(folder)


def welcome_lines(config: Config) -> list[str]:
    """Make vault, bucket and key where they are not there yet; return what to print. Errors: those of the calls."""

    def call(name: str, args: dict[str, Any] | None = None) -> Any:
        return call_daemon(control_socket(config.node.data_dir), name, args)

    status = call("status")
    if not status["s3_addr"]:
        raise MeshHoldError("node.s3.enabled is false", f"set it to true in {config.path}")
    endpoint = f"http://{status['s3_addr']}"
    vaults, keys = call("vault.list"), call("key.list")
    if not (config.path.parent / MARKER).exists() and (vaults or keys):
        return _again_lines(config, endpoint, vaults)
    vault = next((v for v in vaults if v["name"] == VAULT), None) or call("vault.create", {"name": VAULT})
    if vault["alias"] != BUCKET:
        call("vault.alias", {"vault": vault["id"], "alias": BUCKET})
    for key in keys:
        if key["label"] == LABEL:
            call("key.remove", {"access_key_id": key["access_key_id"]})
    key = call("key.add", {"label": LABEL})
    call("grant.set", {"access_key_id": key["access_key_id"], "vault": vault["id"], "permissions": "rwo"})
    return [
        "",
        f"MeshHold serves S3 at {endpoint}  (region {status['region']}, path-style, bucket {BUCKET})",
        "Paste this into another terminal; the secret is shown this once:",
        "",
        f"export AWS_ACCESS_KEY_ID={key['access_key_id']}",
        f"export AWS_SECRET_ACCESS_KEY={key['secret_access_key']}",
        f"export AWS_ENDPOINT_URL={endpoint}",
        f"export AWS_DEFAULT_REGION={status['region']}",
        f"echo hello | aws s3 cp - s3://{BUCKET}/hello.txt && aws s3 ls s3://{BUCKET}/",
        "",
        "Ctrl-C stops the node; the same command starts it again with its data.",
    ]


def _again_lines(config: Config, endpoint: str, vaults: list[dict[str, Any]]) -> list[str]:
    buckets = ", ".join(v["alias"] for v in vaults if v["alias"]) or "none yet"
    plain = default_config_path({})  # another terminal need not have this one's environment
    target = next((v["alias"] for v in vaults if v["alias"]), "VAULT")
    return [
        "",
        f"MeshHold serves S3 at {endpoint}  (region {config.s3.region}, path-style, buckets: {buckets})",
        "Secrets are shown once. To mint another key, in another terminal:",
        "",
        f"  {command_line(config.path, 's3-key', 'add', '--label', 'another', default=plain)}",
        f"  {command_line(config.path, 's3-perm', 'grant', 'ACCESS_KEY_ID', target, 'rw', default=plain)}",
        "",
        "Ctrl-C stops the node.",
    ]
