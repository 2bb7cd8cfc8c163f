"""Where a node's configuration is when nobody says. Knows the environment's names, not what the file holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

HOME_VARIABLE: Final = "MESHHOLD_HOME"
CONFIG_VARIABLE: Final = "MESHHOLD_CONFIG"
CONFIG_NAME: Final = "config.yaml"
SOCKET_NAME: Final = "control.sock"


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of a node that was given none: `MESHHOLD_HOME`, else `~/.meshhold`."""
    return Path(environ.get(HOME_VARIABLE) or "~/.meshhold").expanduser().absolute()


def default_config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the file that is read without `--config`: `MESHHOLD_CONFIG`, else `config.yaml` in the home."""
    named = environ.get(CONFIG_VARIABLE)
    return Path(named).expanduser().absolute() if named else default_home(environ) / CONFIG_NAME


def control_socket(data_dir: Path) -> Path:
    """Return the control socket of the node that stores in `data_dir`."""
    return data_dir / SOCKET_NAME
