"""A configuration means what it says, or the error says where it does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshhold.config import (
    RepairConfig,
    config_warnings,
    default_config_path,
    default_home,
    load_config,
    split_address,
)
from meshhold.config.values import parse_duration, parse_rate, parse_size
from meshhold.errors import ConfigError
from meshhold.node.assembly import open_node
from meshhold.replication.repair.settings import Settings

KEY = bytes(range(32))
KEY_FILE = f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()}\n"
GUIDE = """\
node:
  s3:
    enabled: true
    listen_addr: "127.0.0.1:3900"
    region: "meshhold"
    max_put_bytes: 67108864
"""
FULL = """\
swarm_key: ""
bootstrap_peers: ["203.0.113.5:7777", "[2001:db8::1]:7777", "peer.example.org:7777"]
node:
  data_dir: data
  listen_addr: "[::]:7777"
  capacity: 500GiB
  cache_size: 2.5GiB
  zone: attic
  reliable: false
  name: Anna's laptop
  repair:
    bytes_per_s: 50 MB/s
    scrub_bytes_per_s: 1048576
    stand_in_after: 90min
  s3:
    enabled: false
    listen_addr: localhost:0
    region: eu-west-1
    max_put_bytes: 64MiB
  web:
    enabled: true
    listen_addr: "127.0.0.1:0"
    root_domain: Sites.Example.com
    hosts: {WWW.example.com: my-site, media.example.com: media}
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_guide_example_is_taken_as_written(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GUIDE))
    assert config.s3.enabled
    assert config.s3.listen_addr == "127.0.0.1:3900"
    assert config.s3.region == "meshhold"
    assert config.s3.max_put_bytes == 67108864


@pytest.mark.parametrize("text", ["", "# nothing\n", "node:\n", "node:\n  s3:\n", "swarm_key:\nbootstrap_peers:\n"])
def test_absent_and_empty_keys_take_their_defaults(tmp_path: Path, text: str) -> None:
    config = load_config(write(tmp_path, text))
    assert config.swarm_key is None
    assert config.bootstrap_peers == ()
    assert config.node.data_dir == tmp_path
    assert (config.node.capacity, config.node.zone, config.node.reliable) == (None, "default", True)
    assert config.node.cache_size == 1024**3
    assert config.node.name
    assert config.s3.enabled
    assert (config.s3.listen_addr, config.s3.region) == ("127.0.0.1:3900", "meshhold")
    assert config.s3.max_put_bytes == 5 * 1024**3
    assert (config.web.enabled, config.web.listen_addr) == (False, "127.0.0.1:3902")
    assert (config.web.root_domain, config.web.hosts) == ("", {})
    assert config.repair == RepairConfig(500_000_000, 20 * 1024**2, 3600)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("64MiB", 64 << 20), ("5000", 5000), ("", 1 << 30)])
def test_a_cache_of_any_size_or_none(tmp_path: Path, text: str, size: int) -> None:
    assert load_config(write(tmp_path, f"node: {{cache_size: {text}}}\n")).node.cache_size == size


def test_every_key_is_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL))
    assert config.bootstrap_peers == ("203.0.113.5:7777", "[2001:db8::1]:7777", "peer.example.org:7777")
    assert config.node.data_dir == tmp_path / "data"
    assert config.node.listen_addr == "[::]:7777"
    assert config.node.capacity == 500 * 1024**3
    assert config.node.cache_size == 5 * 1024**3 // 2
    assert (config.node.zone, config.node.reliable, config.node.name) == ("attic", False, "Anna's laptop")
    assert not config.s3.enabled
    assert (config.s3.listen_addr, config.s3.region) == ("localhost:0", "eu-west-1")
    assert config.s3.max_put_bytes == 64 * 1024**2
    assert (config.web.enabled, config.web.listen_addr) == (True, "127.0.0.1:0")
    assert config.web.root_domain == "sites.example.com"
    assert config.repair == RepairConfig(50_000_000, 2**20, 5400)
    assert config.web.hosts == {"www.example.com": "my-site", "media.example.com": "media"}


def test_sample_holds_the_defaults(tmp_path: Path) -> None:
    """What the sample shows as the value of each key is what a node without that key does."""
    sample = Path(__file__).parents[2] / "config.yaml.sample"
    shown = load_config(write(tmp_path, sample.read_text()))
    absent = load_config(write(tmp_path, ""))
    assert shown == absent


def test_tilde_and_absolute_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert load_config(write(tmp_path, "node: {data_dir: ~/x}")).node.data_dir == Path("/home/anna/x")
    assert load_config(write(tmp_path, "node: {data_dir: /srv/x}")).node.data_dir == Path("/srv/x")


def test_swarm_key_in_each_form(tmp_path: Path) -> None:
    """The text of a key file, its hex digits, or the path of the file."""
    (tmp_path / "swarm.key").write_text(KEY_FILE)
    block = "\n".join("  " + line for line in KEY_FILE.splitlines())
    for value in (f"|\n{block}\n", KEY.hex(), f'"{KEY.hex().upper()}"', "swarm.key"):
        assert load_config(write(tmp_path, f"swarm_key: {value}")).swarm_key == KEY
    assert load_config(write(tmp_path, f"swarm_key: {'1' * 64}")).swarm_key == b"\x11" * 32


def test_swarm_key_is_not_shown(tmp_path: Path) -> None:
    assert KEY.hex() not in repr(load_config(write(tmp_path, f"swarm_key: {KEY.hex()}")))
    assert repr(KEY) not in repr(load_config(write(tmp_path, f"swarm_key: {KEY.hex()}")))
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, f"swarm_key: {KEY.hex()}ab"))
    assert KEY.hex() not in str(caught.value)


BAD = [
    ("nod:\n  zone: a\n", "line 1: nod is not a known key; allowed: bootstrap_peers, node, swarm_key", "mean node?"),
    ("node:\n\n  s3:\n    listen_adr: x\n", "line 4: node.s3.listen_adr is not a known key", "node.s3.listen_addr?"),
    ("node:\ns3:\nenabled: true\n", "line 2: s3 is not a known key", "belongs under node: as node.s3"),
    ("region: x\n", "line 1: region is not a known key", "as node.s3.region"),
    ("node: {max_put_bytes: 5}\n", "node.max_put_bytes is not a known key", "node.s3.max_put_bytes"),
    ("node: {swarm_key: x}\n", "node.swarm_key is not a known key", "without indentation"),
    ("node:\n  zone: a\n  zone: b\n", "line 3: node.zone is given twice (first on line 2)", "keep one"),
    ("- node\n", "line 1: the document is a list; allowed: a mapping with the keys", ""),
    ("node: 5\n", "line 1: node is '5'; allowed: a mapping with the keys advertise_addrs", ""),
    ("node:\n  zone: no\n", "line 2: node.zone is 'no' (YAML reads bool)", 'write "no" in quotes'),
    ("node:\n  zone: 7\n", "line 2: node.zone is '7' (YAML reads int)", 'write "7" in quotes'),
    ("node: {zone: [a]}\n", "node.zone is a list", ""),
    ('node: {zone: "a\\tb"}\n', "node.zone is 'a\\tb'; allowed: 1 to 64 printable", ""),
    (f"node: {{name: {'n' * 65}}}\n", "allowed: 1 to 64 printable", ""),
    ("node: {reliable: 1}\n", "node.reliable is '1'; allowed: true, false", ""),
    ("node: {reliable: maybe}\n", "node.reliable is 'maybe'; allowed: true, false", ""),
    ("node: {reliable: !!bool maybe}\n", "node.reliable is 'maybe'; allowed: true, false", ""),
    ("node: {capacity: 500 gigs}\n", "node.capacity is '500 gigs'; allowed: bytes, or a number with a unit", ""),
    ("node: {capacity: 5}\n", "node.capacity is 5 bytes; allowed: 1048576 to", ""),
    ("node: {capacity: 9999PiB}\n", "allowed: 1048576 to 1152921504606846976 bytes", ""),
    ("node: {cache_size: some}\n", "node.cache_size is 'some'; allowed: bytes, or a number with a unit", ""),
    ("node: {cache_size: -1}\n", "node.cache_size is -1 bytes; allowed: 0 to 1152921504606846976 bytes", ""),
    ("cache_size: 1GiB\n", "cache_size is not a known key", "it belongs under node: as node.cache_size"),
    ("node: {s3: {max_put_bytes: -1}}\n", "node.s3.max_put_bytes is -1 bytes; allowed: 1 to 5497558138880", ""),
    ("node: {s3: {max_put_bytes: 0}}\n", "node.s3.max_put_bytes is 0 bytes", ""),
    ("node: {s3: {max_put_bytes: 010}}\n", "node.s3.max_put_bytes is '010'", ""),
    ("node: {s3: {max_put_bytes: 1.5}}\n", "node.s3.max_put_bytes is '1.5'", ""),
    (f"node: {{s3: {{max_put_bytes: {'9' * 5000}}}}}\n", "node.s3.max_put_bytes is '9999", ""),
    (
        "node: {s3: {listen_addr: 3900}}\n",
        "node.s3.listen_addr is '3900' (YAML reads int); allowed: host:port",
        "quotes",
    ),
    ('node: {s3: {listen_addr: ":3900"}}\n', "whose host is neither a name nor an IP address", ""),
    ("node: {s3: {listen_addr: localhost}}\n", "'localhost', which has no port", ""),
    ("node: {s3: {listen_addr: localhost:99999}}\n", "whose port is not 0 to 65535", ""),
    ("node: {listen_addr: '::1:7777'}\n", "IPv6 goes in [brackets]", ""),
    ("node: {s3: {region: eu/west}}\n", "node.s3.region is 'eu/west'; allowed: 1 to 63 letters", ""),
    ("node: {s3: {enabled: }}\nbootstrap_peers: host:7777\n", "line 2: bootstrap_peers is 'host:7777'", ""),
    ("node: {web: {root: a}}\n", "node.web.root is not a known key; allowed: enabled, hosts", ""),
    ("node: {web: {root_domain: 'a:80'}}\n", "node.web.root_domain is 'a:80'; allowed: a domain without port", ""),
    ("node: {web: {root_domain: .a}}\n", "node.web.root_domain is '.a'", ""),
    ("node: {web: {hosts: [a]}}\n", "node.web.hosts is a list; allowed: host names and buckets", ""),
    ("node: {web: {hosts: {a_b: site}}}\n", "node.web.hosts: a name is 'a_b'; allowed: a domain", ""),
    ("node: {web: {hosts: {a: Site}}}\n", "node.web.hosts[a] is bucket name 'Site'", ""),
    ("node: {web: {hosts: {a: site, A: other}}}\n", "node.web.hosts: a name is 'a' a second time", ""),
    ("node: {web: {hosts: {? [x] : site}}}\n", "node.web.hosts: a name is a list", ""),
    (
        "node: {repair: {bytes_per_s: fast}}\n",
        "node.repair.bytes_per_s is 'fast'; allowed: bytes per second, 100kB",
        "",
    ),
    ("node: {repair: {bytes_per_s: 0}}\n", "node.repair.bytes_per_s is 0 bytes per second; allowed: bytes per", ""),
    (
        "node: {repair: {scrub_bytes_per_s: 2TB}}\n",
        "node.repair.scrub_bytes_per_s is 2000000000000 bytes per second",
        "",
    ),
    ("node: {repair: {stand_in_after: 60}}\n", "node.repair.stand_in_after is '60'; allowed: a number with s, min", ""),
    ("node: {repair: {stand_in_after: 5s}}\n", "node.repair.stand_in_after is '5s'; allowed: a number with s, min", ""),
    ("node: {repair: {stand_in_after: 31d}}\n", "is '31d'; allowed: a number with s, min, h or d, 1min to 30d", ""),
    ("node: {repair: {rate: 5}}\n", "node.repair.rate is not a known key; allowed: bytes_per_s, scrub_bytes", ""),
    ("node: {stand_in_after: 1h}\n", "node.stand_in_after is not a known key", "as node.repair.stand_in_after"),
    ("bytes_per_s: 5MB\n", "bytes_per_s is not a known key", "under node: repair: as node.repair.bytes_per_s"),
    ("bootstrap_peers: [host:0]\n", "bootstrap_peers[0] is 'host:0'; allowed: a port from 1 to 65535", ""),
    ("bootstrap_peers: [a:1, 5]\n", "bootstrap_peers[1] is '5' (YAML reads int)", ""),
    (f"bootstrap_peers: [{'a:1, ' * 257}]\n", "bootstrap_peers is a list of 257; allowed: at most 256", ""),
    ("swarm_key: hunter2\n", "swarm_key is neither a key nor the path of a key file", ""),
    ("swarm_key: ./absent.key\n", "which cannot be read (No such file or directory)", ""),
    ("swarm_key: [1]\n", "swarm_key is a list", ""),
    ("swarm_key: |\n  /key/swarm/psk/1.0.0/\n  /base64/\n  x\n", "the second line of a swarm key file is /base16/", ""),
    (f"swarm_key: |\n  /key/swarm/psk/1.0.0/\n  /base16/\n  {'zz' * 32}\n", "a swarm key has 64 hex digits", ""),
    ("node:\n\tzone: a\n", "line 2: this is not YAML", "no tabs"),
    ("node: {zone: 'a}\n", "this is not YAML", "quotes"),
    ("a: 1\n---\nb: 2\n", "line 2: this is not YAML", ""),
    ("node: *nowhere\n", "line 1: this is not YAML", ""),
    (b"node:\n  zone: \xff\n", "line 2: found a byte that is not UTF-8", "UTF-8"),
    (b"node:\n  zone: \x00\n", "line 2: found a control character", ""),
    ("[\n" * 700, "nested too deeply", ""),
    ("# " + "x" * 300_000, "larger than 262144 bytes", ""),
    ("node: {<<: {zone: a}}\n", "node.<< is not a known key", ""),
    ("node: !!python/object:os.system {}\n", "line 1: node is a python/object:os.system", ""),
    ("? [a, b]\n: 1\n", "line 1: ? is not a known key", ""),
]


@pytest.mark.parametrize(("text", "message", "fix"), BAD)
def test_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str | bytes, message: str, fix: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert fix in caught.value.fix


def test_alias_bomb_costs_nothing(tmp_path: Path) -> None:
    """A billion laughs is refused by the schema before anything is expanded."""
    levels = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(ConfigError, match="a0 is not a known key"):
        load_config(write(tmp_path, "\n".join(levels)))
    nested = "bootstrap_peers: [&a [x, x], &b [*a, *a], *b]"
    with pytest.raises(ConfigError, match=r"bootstrap_peers\[0\] is a list"):
        load_config(write(tmp_path, nested))


def test_missing_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_config(tmp_path / "config.yaml")
    assert "meshhold init" in caught.value.fix
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_warnings_name_what_is_unwise(tmp_path: Path) -> None:
    path = write(tmp_path, f"swarm_key: {KEY.hex()}\nnode: {{s3: {{listen_addr: '0.0.0.0:3900'}}}}\n")
    path.chmod(0o644)
    readable, exposed = config_warnings(load_config(path))
    assert "chmod 600" in readable
    assert "plain HTTP" in exposed
    path.chmod(0o600)
    assert len(config_warnings(load_config(path))) == 1
    write(tmp_path, "bootstrap_peers: ['a:1']")
    assert "ignored" in config_warnings(load_config(path))[0]
    write(tmp_path, GUIDE)
    assert config_warnings(load_config(path)) == []


def test_place_of_the_file_follows_the_environment() -> None:
    assert default_home({"MESHHOLD_HOME": "/srv/m"}) == Path("/srv/m")
    assert default_home({}) == Path("~/.meshhold").expanduser()
    assert default_config_path({"MESHHOLD_HOME": "/srv/m"}) == Path("/srv/m/config.yaml")
    assert default_config_path({"MESHHOLD_HOME": "/srv/m", "MESHHOLD_CONFIG": "/etc/m.yaml"}) == Path("/etc/m.yaml")


@pytest.mark.parametrize(
    ("text", "size"),
    [("5", 5), ("5B", 5), ("5k", None), ("5KB", 5000), ("5 KiB", 5120), ("1.5MiB", 1572864), ("2tib", 2 * 1024**4)],
)
def test_sizes(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="5k"):
            parse_size(text)
    else:
        assert parse_size(text) == size


def test_addresses() -> None:
    assert split_address("127.0.0.1:3900") == ("127.0.0.1", 3900)
    assert split_address("[::1]:0") == ("::1", 0)


def test_rates_and_durations() -> None:
    assert [parse_rate(text) for text in ("50 MB", "50MB/s", "1.5 MiB/s")] == [50_000_000, 50_000_000, 3 * 2**19]
    assert [parse_duration(text) for text in ("90s", "30 min", "1H", "2d", "1w")] == [90, 1800, 3600, 172_800, 604_800]
    for text in ("", "60", "1 hour", "-1h", "1.5h", "h"):
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            parse_duration(text)


def test_defaults_are_those_of_the_packages() -> None:
    """A command reads a configuration without loading what serves, so the numbers stand there twice."""
    settings = Settings()
    assert RepairConfig().bytes_per_s == settings.bytes_per_s
    assert RepairConfig().stand_in_after_s == settings.out_after_s


@pytest.mark.parametrize(("rate", "index_rate"), [(1_000_000, 1_000_000), (500_000_000, 20_000_000)])
def test_an_index_is_caught_up_with_no_faster_than_chunks(rate: int, index_rate: int) -> None:
    assert Settings(rate).index_bytes_per_s == index_rate


async def test_a_node_goes_by_its_configuration(tmp_path: Path) -> None:
    text = "node: {repair: {bytes_per_s: 5 MB, scrub_bytes_per_s: 2MiB, stand_in_after: 6h}}"
    async with open_node(load_config(write(tmp_path, text))) as node:
        pace = {"repair_bytes_per_s": 5_000_000, "scrub_bytes_per_s": 2 * 2**20, "stand_in_after_s": 6 * 3600}
        assert node.status()["pace"] == pace
        assert node.chunk_keeping.holders._out_after_s == 6 * 3600
        assert node.chunk_keeping.repair._transfers._throttle._bytes_per_s == 5_000_000
        assert node.keeping.sync._throttle._bytes_per_s == 5_000_000
