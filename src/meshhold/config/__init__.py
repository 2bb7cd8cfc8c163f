"""What one node was told: the YAML file as frozen values. Knows no store, no door and no default adapter."""

from meshhold.config.load import config_warnings, load_config
from meshhold.config.places import default_config_path, default_home
from meshhold.config.settings import Config, NodeConfig, RepairConfig, S3Config, WebConfig
from meshhold.config.values import split_address

__all__ = [
    "Config",
    "NodeConfig",
    "RepairConfig",
    "S3Config",
    "WebConfig",
    "config_warnings",
    "default_config_path",
    "default_home",
    "load_config",
    "split_address",
]
