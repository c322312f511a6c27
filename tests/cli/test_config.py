"""Settings of kvnode: which source wins, and what a mistake is called."""

from __future__ import annotations

import pytest

from cluster.cli.config import check_address, read_toml, settle
from kvstore.errors import ConfigError

DATA = {"data": "./a"}


def test_defaults_work_on_a_laptop() -> None:
    """Only --data is required; the node then listens on loopback with three copies and 256 partitions."""
    settings = settle(DATA, {}, {})

    assert (settings.listen, settings.n, settings.partition_bits) == ("127.0.0.1:7400", 3, 8)
    assert (settings.cluster_name, settings.zone, settings.weight, settings.join) == ("dev", "default", 1, ())


@pytest.mark.parametrize(
    ("flags", "environment", "document", "expected"),
    [
        ({"zone": "f"}, {"KVNODE_ZONE": "e"}, {"zone": "t"}, "f"),
        ({}, {"KVNODE_ZONE": "e"}, {"zone": "t"}, "e"),
        ({}, {}, {"zone": "t"}, "t"),
        ({}, {}, {}, "default"),
    ],
)
def test_flag_beats_environment_beats_file_beats_default(
    flags: dict[str, str], environment: dict[str, str], document: dict[str, str], expected: str
) -> None:
    """Each source wins over the ones after it."""
    assert settle({**DATA, **flags}, environment, document).zone == expected


def test_environment_text_becomes_the_option_type() -> None:
    """Environment variables are text: numbers, booleans and comma-separated seeds are read from it."""
    environment = {
        "KVNODE_DATA": "/d", "KVNODE_WEIGHT": "4", "KVNODE_INSECURE": "true", "KVNODE_JOIN": "10.0.0.1:7400, h:7401",
        "KVNODE_JOIN_TIMEOUT_S": "2.5",
    }  # fmt: skip

    settings = settle({}, environment, {})

    assert (settings.data, settings.weight, settings.insecure) == ("/d", 4, True)
    assert settings.join == ("10.0.0.1:7400", "h:7401")
    assert settings.join_timeout_s == 2.5


def test_unknown_toml_key_is_an_error_that_lists_the_known_ones() -> None:
    """A typo in the file never silently means the default."""
    with pytest.raises(ConfigError, match=r"node\.toml: unknown key lisen; known keys are .*listen") as caught:
        settle(DATA, {}, {"lisen": "127.0.0.1:1"}, source="node.toml")

    assert caught.value.exit_code == 2


def test_toml_keys_may_be_spelled_like_flags() -> None:
    """`cluster-name` and `cluster_name` are one key."""
    assert settle(DATA, {}, read_toml('cluster-name = "prod"', "f")).cluster_name == "prod"


def test_a_mistake_names_its_source() -> None:
    """The message says which flag, variable or file holds the bad value."""
    with pytest.raises(ConfigError, match="environment variable KVNODE_WEIGHT"):
        settle(DATA, {"KVNODE_WEIGHT": "many"}, {})
    with pytest.raises(ConfigError, match="flag --n"):
        settle({**DATA, "n": 0}, {}, {})
    with pytest.raises(ConfigError, match=r"n\.toml is not valid TOML"):
        read_toml("listen = ", "n.toml")


def test_data_is_required() -> None:
    """A node without a directory would forget who it is."""
    with pytest.raises(ConfigError, match="--data"):
        settle({}, {}, {})


def test_partitions_must_be_a_power_of_two() -> None:
    """Partitions are the top bits of a token."""
    assert settle({**DATA, "partitions": 64}, {}, {}).partition_bits == 6
    with pytest.raises(ConfigError, match="power of two"):
        settle({**DATA, "partitions": 100}, {}, {})


@pytest.mark.parametrize("address", ["127.0.0.1:7400", "localhost:0", "[::1]:7400", "127.8.8.8:1"])
def test_loopback_addresses_need_no_permission(address: str) -> None:
    """Nobody outside the machine can reach them."""
    check_address(address, "flag --listen", insecure=False)


@pytest.mark.parametrize("address", ["0.0.0.0:7400", "10.0.0.1:7400", "[::]:7400", "example.org:7400"])
def test_reachable_addresses_need_insecure(address: str) -> None:
    """There is neither TLS nor authentication yet, so opening a node to a network is a decision."""
    with pytest.raises(ConfigError, match="TLS and authentication are not in this version"):
        check_address(address, "flag --listen", insecure=False)
    check_address(address, "flag --listen", insecure=True)


@pytest.mark.parametrize("address", ["7400", "host", "host:", ":7400", "host:port", "host:70000", "host:-1"])
def test_malformed_addresses_are_refused(address: str) -> None:
    """HOST:PORT with a port that exists."""
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        check_address(address, "flag --listen", insecure=True)


def test_advertised_address_is_checked_like_the_one_listened_on() -> None:
    """Advertising is what makes others connect; port 0 is nothing to connect to."""
    with pytest.raises(ConfigError, match="flag --advertise"):
        settle({**DATA, "advertise": "10.0.0.1:7400"}, {}, {})
    with pytest.raises(ConfigError, match="port 0"):
        settle({**DATA, "advertise": "127.0.0.1:0"}, {}, {})
