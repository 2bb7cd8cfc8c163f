"""Calls reach their service with checked arguments; whatever else is asked is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from tests.unit.admin_fakes import FakeNode, VaultView

from meshhold.errors import BucketNotEmptyError, InvalidError, MeshHoldError, UnavailableError


async def quiet(_step: dict[str, Any]) -> None:
    """Take progress and say nothing."""


async def test_a_vault_from_birth_to_death() -> None:
    node = FakeNode()
    call = node.dispatch()
    made = await call("vault.create", {"name": "photos", "replication_factor": 2}, quiet)
    assert made.replication_factor == 2
    assert (await call("vault.alias", {"vault": "photos", "alias": "my-bucket"}, quiet)).alias == "my-bucket"
    assert (await call("vault.show", {"vault": "my-bucket"}, quiet)).id == made.id
    assert len(await call("vault.list", {}, quiet)) == 1
    node.vaults[made.id] = VaultView(made.id, "photos", objects=1)
    with pytest.raises(BucketNotEmptyError):
        await call("vault.delete", {"vault": "photos"}, quiet)
    await call("vault.delete", {"vault": "photos", "force": True}, quiet)
    assert node.vaults == {}


@pytest.mark.parametrize("spelling", ["read,write", "read+write", "rw", "w,r", "READ+Write"])
async def test_every_spelling_of_permissions(spelling: str) -> None:
    node = FakeNode()
    await node.create("v")
    args = {"access_key_id": "anonymous", "vault": "v", "permissions": spelling, "allow_list": True}
    assert (await node.dispatch()("grant.set", args, quiet)).permissions == "read,write,list"


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        ("vault.explode", {}, "has no call 'vault.explode'"),
        ("vault.list", {"all": True}, "vault.list has no argument 'all' (it takes: none)"),
        (
            "vault.create",
            {"name": "a", "nmae": "b"},
            "has no argument 'nmae' (it takes: name, replication_factor, like)",
        ),
        ("vault.create", {}, "needs the argument 'name' (give a text)"),
        ("vault.create", {"name": None}, "needs the argument 'name'"),
        ("vault.create", {"name": 5}, "'name' is a int (give a text)"),
        ("vault.create", {"name": "a", "replication_factor": True}, "'replication_factor' is a bool"),
        ("vault.create", {"name": "a", "replication_factor": 2.0}, "'replication_factor' is a float"),
        ("vault.create", {"name": "a\x1b[2J"}, "has a control character"),
        ("vault.create", {"name": "a" * 1025}, "has 1025 characters"),
        ("vault.delete", {"vault": "a", "force": 1}, "'force' is a int (give true or false)"),
        ("grant.set", {"access_key_id": "a", "vault": "v", "permissions": "root"}, "permission 'root' is not known"),
    ],
)
async def test_wrong_call_is_refused_by_name(call: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        await FakeNode().dispatch()(call, args, quiet)
    assert message in str(caught.value)


async def test_stuck_call_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - pytest-trio finds the clock among the arguments only
) -> None:
    node = FakeNode()

    async def stuck(_key: str) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(node, "remove_key", stuck)
    with pytest.raises(UnavailableError, match=r"key\.remove took longer than 100 s"):
        await node.dispatch()("key.remove", {"access_key_id": "x"}, quiet)


async def test_errors_of_services_pass_unchanged() -> None:
    with pytest.raises(MeshHoldError, match="no access key is called 'x'"):
        await FakeNode().dispatch()("key.remove", {"access_key_id": "x"}, quiet)
