"""Which calls does the control socket offer, with which arguments? Knows no socket and no adapter.

An unknown call, an unknown argument and one of another type are refused by name, so that an old program that talks to
a new daemon learns what differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import trio

from meshhold.admin.server import Dispatch, Progress
from meshhold.admin.services import (
    Access,
    Care,
    Conflicts,
    Counts,
    Drains,
    Expiry,
    Founding,
    Members,
    Mesh,
    Recovery,
    Repairs,
    Rings,
    Safekeeping,
    Secrets,
    Status,
    Vaults,
)
from meshhold.errors import InvalidError, UnavailableError
from meshhold.model.configuration import REPLICAS_MAX, Mode
from meshhold.model.grant import PREFIXES_MAX, parse_permissions
from meshhold.model.token import SIZE_MAX
from meshhold.registry.shape import FACTOR_MAX
from meshhold.store.secrets import SIZE_MAX as SECRETS_SIZE_MAX

CALL_S_MAX: Final = 100.0  # below the client's patience, so that the daemon's own message arrives
TEXT_LENGTH_MAX: Final = 1024
EXPIRES_S_MAX: Final = 3650 * 86_400  # an invitation or a key for longer is one that does not expire
WINDOW_S_MAX: Final = 30 * 86_400  # a key that was rotated because it leaked must not be taken for months
CAPACITY_MAX: Final = 2**60  # as in the configuration
QUOTA_OBJECTS_MAX: Final = 10**12  # beyond every index
NODES_MAX: Final = 64  # that come or go in one plan
LABEL_LENGTH_MAX: Final = 64  # same, for name and zone
FACTOR: Final = 3  # copies that a vault gets where nobody says
_REQUIRED: Final = object()
_KINDS: Final = {str: "a text", int: "a whole number", bool: "true or false", list: "a list of texts"}


@dataclass(frozen=True, slots=True)
class _Argument:
    """`most` bounds a number, a text's length and how many texts a list has; None leaves a number to its service.

    A list may also come as one text with commas.
    """

    kind: type
    default: object = _REQUIRED
    most: int | None = None
    least: int = 0


@dataclass(frozen=True, slots=True)
class _Call:
    run: Callable[[dict[str, Any], Progress], Awaitable[Any]]
    arguments: dict[str, _Argument]
    long: bool = False


_TEXT: Final = _Argument(str)
_OPTIONAL_TEXT: Final = _Argument(str, None)
_FLAG: Final = _Argument(bool, default=False)


def make_dispatch(
    vaults: Vaults,
    access: Access,
    care: Care,
    status: Status,
    mesh: Mesh,
    members: Members,
    conflicts: Conflicts | None = None,
    *,
    rings: Rings | None = None,
    drains: Drains | None = None,
    repairs: Repairs | None = None,
    secrets: Secrets | None = None,
    recovery: Recovery | None = None,
    safekeeping: Safekeeping | None = None,
    expiry: Expiry | None = None,
    counts: Counts | None = None,
    founding: Founding | None = None,
) -> Dispatch:
    """Return what `run_admin` serves: every call of this node."""
    calls = _vault_calls(vaults, founding) | _access_calls(access) | _care_calls(care)
    calls |= _mesh_calls(mesh) | _node_calls(mesh) | _member_calls(members) | _index_calls(vaults, members)
    if conflicts is not None:
        calls |= _conflict_calls(conflicts)
    if rings is not None:
        calls |= _ring_calls(rings)
    if drains is not None:
        calls |= _drain_calls(drains)
    if repairs is not None:
        calls |= _repair_calls(repairs)
    if secrets is not None:
        calls |= _secret_calls(secrets)
    if recovery is not None:
        calls |= _recovery_calls(recovery)
    if safekeeping is not None:
        calls |= _safekeeping_calls(safekeeping)
    if expiry is not None:
        calls |= _expiry_calls(expiry)
    if counts is not None:
        calls |= _count_calls(counts)
    calls["status"] = _Call(_status(status, mesh, repairs), {})

    async def dispatch(name: str, args: dict[str, Any], progress: Progress) -> Any:
        call = calls.get(name)
        if call is None:
            raise InvalidError(f"this daemon has no call {name[:40]!r}", "use the program it was started from")
        checked = check_arguments(name, call.arguments, args)
        if call.long:
            return await call.run(checked, progress)  # as long as the client listens to its progress
        try:
            with trio.fail_after(CALL_S_MAX):
                return await call.run(checked, progress)
        except trio.TooSlowError:
            raise UnavailableError(f"{name} took longer than {CALL_S_MAX:.0f} s", "see the daemon's log") from None

    return dispatch


def check_arguments(call: str, known: dict[str, _Argument], args: dict[str, Any]) -> dict[str, Any]:
    """Return `args` with defaults filled in. Errors: `InvalidError` naming the argument and what it must be."""
    for name in args:
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise InvalidError(f"{call} has no argument {name[:40]!r}", f"it takes: {allowed}")
    checked = {}
    for name, argument in known.items():
        value = args.get(name)
        if value is None:
            if argument.default is _REQUIRED:
                raise InvalidError(f"{call} needs the argument {name!r}", f"give {_KINDS[argument.kind]}")
            value = argument.default
        elif argument.kind is list:
            value = _texts(call, name, value, argument.most or TEXT_LENGTH_MAX)
        elif type(value) is not argument.kind:  # a bool is an int to isinstance
            raise InvalidError(f"{call}: {name!r} is a {type(value).__name__}", f"give {_KINDS[argument.kind]}")
        elif isinstance(value, str):
            _check_text(call, name, value, argument.most or TEXT_LENGTH_MAX)
        elif isinstance(value, int) and argument.most is not None and not argument.least <= value <= argument.most:
            raise InvalidError(f"{call}: {name!r} is out of range", f"use {argument.least} to {argument.most}")
        checked[name] = value
    return checked


def _texts(call: str, name: str, value: object, most: int) -> list[str]:
    """Return a list of texts, split at commas where it came as one."""
    found = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidError(f"{call}: {name!r} is no list of texts", f"give {_KINDS[list]}, or one text with commas")
    if not 1 <= len(found) <= most or not all(found):
        raise InvalidError(f"{call}: {name!r} names none, an empty one or too many", f"use 1 to {most}")
    for each in found:
        _check_text(call, name, each, TEXT_LENGTH_MAX)
    return found


def _check_text(call: str, name: str, value: str, most: int) -> None:
    if len(value) > most:
        raise InvalidError(f"{call}: {name!r} has {len(value)} characters", f"use at most {most}")
    if not value.isprintable():
        raise InvalidError(f"{call}: {name!r} has a control character", "use printable characters")


def _status(
    status: Status, mesh: Mesh, repairs: Repairs | None
) -> Callable[[dict[str, Any], Progress], Awaitable[Any]]:
    async def show(_args: dict[str, Any], _progress: Progress) -> Any:
        return status() | {"nodes": mesh.nodes(), "repair": [] if repairs is None else repairs.views()}

    return show


def _vault_calls(vaults: Vaults, founding: Founding | None) -> dict[str, _Call]:
    async def create(args: dict[str, Any], _progress: Progress) -> Any:
        factor, like = args["replication_factor"], args["like"]
        if like is None or founding is None:
            return await vaults.create(args["name"], replication_factor=factor or FACTOR)
        if factor is not None:
            raise InvalidError("a vault that is like another one has its factor too", "change it afterwards, if at all")
        return await founding.create(args["name"], like=like)

    async def views(_args: dict[str, Any], _progress: Progress) -> Any:
        return await vaults.views()

    async def show(args: dict[str, Any], _progress: Progress) -> Any:
        return await vaults.view(args["vault"])

    async def delete(args: dict[str, Any], _progress: Progress) -> Any:
        await vaults.delete(args["vault"], force=args["force"], break_locks=args["break_locks"])

    async def set_alias(args: dict[str, Any], _progress: Progress) -> Any:
        return await vaults.set_alias(args["vault"], args["alias"])

    return {
        "vault.create": _Call(
            create, {"name": _TEXT, "replication_factor": _Argument(int, None), "like": _OPTIONAL_TEXT}
        ),
        "vault.list": _Call(views, {}),
        "vault.show": _Call(show, {"vault": _TEXT}),
        "vault.delete": _Call(delete, {"vault": _TEXT, "force": _FLAG, "break_locks": _FLAG}),
        "vault.alias": _Call(set_alias, {"vault": _TEXT, "alias": _TEXT}),
    }


def _access_calls(access: Access) -> dict[str, _Call]:
    async def add_key(args: dict[str, Any], _progress: Progress) -> Any:
        return await access.add_key(**args)

    async def keys(_args: dict[str, Any], _progress: Progress) -> Any:
        return access.keys()

    async def remove_key(args: dict[str, Any], _progress: Progress) -> Any:
        await access.remove_key(args["access_key_id"])

    async def grant(args: dict[str, Any], _progress: Progress) -> Any:
        permissions = parse_permissions(args["permissions"])
        return await access.grant(
            args["access_key_id"],
            args["vault"],
            permissions,
            allow_list=args["allow_list"],
            prefixes=args["prefixes"] or (),
        )

    async def grants(_args: dict[str, Any], _progress: Progress) -> Any:
        return access.grants()

    async def revoke(args: dict[str, Any], _progress: Progress) -> Any:
        await access.revoke(args["access_key_id"], args["vault"])

    target = {"access_key_id": _TEXT, "vault": _TEXT}
    of_key = {"like": _Argument(str, ""), "create_buckets": _FLAG, "may_publish": _FLAG, "read_only": _FLAG}
    prefixes = _Argument(list, None, PREFIXES_MAX)
    return {
        "key.add": _Call(add_key, {"label": _TEXT, **of_key, "expires_s": _Argument(int, 0, EXPIRES_S_MAX)}),
        "key.list": _Call(keys, {}),
        "key.remove": _Call(remove_key, {"access_key_id": _TEXT}),
        "grant.set": _Call(grant, target | {"permissions": _TEXT, "allow_list": _FLAG, "prefixes": prefixes}),
        "grant.list": _Call(grants, {}),
        "grant.revoke": _Call(revoke, target),
    }


def _care_calls(care: Care) -> dict[str, _Call]:
    async def check(args: dict[str, Any], progress: Progress) -> Any:
        return await care.check(args["vault"], progress, deep=args["deep"])

    async def scrub(args: dict[str, Any], progress: Progress) -> Any:
        return await care.scrub(args["vault"], progress)

    async def collect(args: dict[str, Any], _progress: Progress) -> Any:
        return await care.collect(args["vault"])

    one = {"vault": _OPTIONAL_TEXT}
    return {
        "vault.check": _Call(check, one | {"deep": _FLAG}, long=True),
        "scrub": _Call(scrub, one, long=True),
        "collect": _Call(collect, one, long=True),
    }


def _mesh_calls(mesh: Mesh) -> dict[str, _Call]:
    async def invite(args: dict[str, Any], _progress: Progress) -> Any:
        return {"token": await mesh.invite(expires_s=args["expires_s"], single_use=args["single_use"])}

    async def join(args: dict[str, Any], _progress: Progress) -> Any:
        return await mesh.join(args["token"])

    async def rotate(args: dict[str, Any], _progress: Progress) -> Any:
        return await mesh.rotate(window_s=args["window_s"])

    return {
        "mesh.invite": _Call(invite, {"expires_s": _Argument(int, 0, EXPIRES_S_MAX), "single_use": _FLAG}),
        "mesh.join": _Call(join, {"token": _Argument(str, most=SIZE_MAX)}),
        "swarm.rotate": _Call(rotate, {"window_s": _Argument(int, most=WINDOW_S_MAX)}),
    }


def _node_calls(mesh: Mesh) -> dict[str, _Call]:
    async def nodes(_args: dict[str, Any], _progress: Progress) -> Any:
        return mesh.nodes()

    async def show(args: dict[str, Any], _progress: Progress) -> Any:
        return mesh.node(args["node"])

    async def set_facts(args: dict[str, Any], _progress: Progress) -> Any:
        for name in ("name", "zone"):
            if args[name] is not None and not args[name].strip():
                raise InvalidError(f"node.set: {name!r} is empty", f"use 1 to {LABEL_LENGTH_MAX} printable characters")
        return await mesh.set_facts(**args)

    async def ban(args: dict[str, Any], _progress: Progress) -> Any:
        await mesh.ban(args["node"], lift=args["lift"])

    async def leave(_args: dict[str, Any], _progress: Progress) -> Any:
        await mesh.leave()

    facts = {
        "name": _Argument(str, None, LABEL_LENGTH_MAX),
        "zone": _Argument(str, None, LABEL_LENGTH_MAX),
        "capacity": _Argument(int, None, CAPACITY_MAX),
        "reliable": _Argument(bool, None),
    }
    return {
        "node.list": _Call(nodes, {}),
        "node.show": _Call(show, {"node": _TEXT}),
        "node.set": _Call(set_facts, facts),
        "node.ban": _Call(ban, {"node": _TEXT, "lift": _FLAG}),
        "node.leave": _Call(leave, {}),
    }


def _member_calls(members: Members) -> dict[str, _Call]:
    async def views(args: dict[str, Any], _progress: Progress) -> Any:
        return members.views(args["vault"])

    async def add(args: dict[str, Any], _progress: Progress) -> Any:
        return await members.add(args["vault"], args["node"], trusted=args["trusted"])

    async def remove(args: dict[str, Any], progress: Progress) -> Any:
        return {"short": await members.remove(args["vault"], args["node"], gone=args["gone"], progress=progress)}

    async def rotate(args: dict[str, Any], _progress: Progress) -> Any:
        return {"epoch": await members.rotate(args["vault"])}

    target = {"vault": _TEXT, "node": _TEXT}
    return {
        "vault.members": _Call(views, {"vault": _TEXT}),
        "vault.member_add": _Call(add, target | {"trusted": _Argument(bool, default=True)}),
        "vault.member_remove": _Call(remove, target | {"gone": _FLAG}, long=True),
        "vault.rotate_key": _Call(rotate, {"vault": _TEXT}),
    }


def _index_calls(vaults: Vaults, members: Members) -> dict[str, _Call]:
    async def replicas(args: dict[str, Any], _progress: Progress) -> Any:
        return await members.index_view(args["vault"])

    async def set_vault(args: dict[str, Any], _progress: Progress) -> Any:
        nodes, consistency, factor = (args[name] for name in ("index_replicas", "consistency", "replication_factor"))
        if consistency is not None and consistency not in set(Mode):
            raise InvalidError(f"consistency {consistency!r} is not known", f"use {' or '.join(Mode)}")
        if all(args[name] is None for name in changes):
            raise InvalidError("vault.set: nothing to set", f"give {', '.join(changes)}")
        vault = (await vaults.view(args["vault"])).id
        if nodes is not None or consistency is not None:
            await members.set_index(vault, nodes, consistency)
        if factor is not None:
            await vaults.set_factor(vault, factor)
        if args["quota_bytes"] is not None or args["quota_objects"] is not None:
            await vaults.set_quota(vault, args["quota_bytes"], args["quota_objects"])
        return await vaults.view(vault)

    changes = {
        "index_replicas": _Argument(list, None, REPLICAS_MAX),
        "consistency": _OPTIONAL_TEXT,
        "replication_factor": _Argument(int, None, FACTOR_MAX, 1),
        "quota_bytes": _Argument(int, None, CAPACITY_MAX),
        "quota_objects": _Argument(int, None, QUOTA_OBJECTS_MAX),
    }
    return {
        "vault.replicas": _Call(replicas, {"vault": _TEXT}),
        "vault.set": _Call(set_vault, {"vault": _TEXT, **changes}),
    }


def _expiry_calls(expiry: Expiry) -> dict[str, _Call]:
    async def views(args: dict[str, Any], _progress: Progress) -> Any:
        return expiry.views(args["vault"])

    async def run(args: dict[str, Any], progress: Progress) -> Any:
        return await expiry.run(args["vault"], progress, dry_run=args["dry_run"])

    return {
        "vault.lifecycle": _Call(views, {"vault": _OPTIONAL_TEXT}),
        "vault.expire": _Call(run, {"vault": _TEXT, "dry_run": _FLAG}, long=True),
    }


def _count_calls(counts: Counts) -> dict[str, _Call]:
    async def show(_args: dict[str, Any], _progress: Progress) -> Any:
        return counts()

    return {"counters": _Call(show, {})}


def _conflict_calls(conflicts: Conflicts) -> dict[str, _Call]:
    async def views(args: dict[str, Any], _progress: Progress) -> Any:
        return await conflicts.views(args["vault"])

    async def restore(args: dict[str, Any], _progress: Progress) -> Any:
        return await conflicts.restore(args["vault"], args["id"])

    return {
        "vault.conflicts": _Call(views, {"vault": _TEXT}),
        "vault.restore": _Call(restore, {"vault": _TEXT, "id": _TEXT}),
    }


def _ring_calls(rings: Rings) -> dict[str, _Call]:
    async def show(args: dict[str, Any], _progress: Progress) -> Any:
        return await rings.show(args["vault"])

    async def plan(args: dict[str, Any], _progress: Progress) -> Any:
        return await rings.plan(args["vault"], args["without"] or [], args["with"] or [], args["factor"])

    nodes = _Argument(list, None, NODES_MAX)
    changes = {"without": nodes, "with": nodes, "factor": _Argument(int, None, FACTOR_MAX, 1)}
    return {
        "ring.show": _Call(show, {"vault": _OPTIONAL_TEXT}),
        "ring.plan": _Call(plan, {"vault": _OPTIONAL_TEXT, **changes}),
    }


def _drain_calls(drains: Drains) -> dict[str, _Call]:
    async def drain(args: dict[str, Any], progress: Progress) -> Any:
        flags = {name: args[name] for name in ("undo", "force", "wait")}
        return await drains.run(args["node"], progress, **flags)

    flags = {"undo": _FLAG, "force": _FLAG, "wait": _FLAG}
    return {"node.drain": _Call(drain, {"node": _OPTIONAL_TEXT, **flags}, long=True)}


def _repair_calls(repairs: Repairs) -> dict[str, _Call]:
    async def repair(args: dict[str, Any], _progress: Progress) -> Any:
        return repairs.start(args["vault"]) if args["start"] else repairs.views(args["vault"])

    return {"vault.repair": _Call(repair, {"vault": _OPTIONAL_TEXT, "start": _Argument(bool, default=True)})}


def _secret_calls(secrets: Secrets) -> dict[str, _Call]:
    async def export(args: dict[str, Any], _progress: Progress) -> Any:
        return {"secrets": secrets.export(args["vault"])}

    async def take(args: dict[str, Any], _progress: Progress) -> Any:
        return await secrets.take(args["secrets"])

    return {
        "vault.export": _Call(export, {"vault": _TEXT}),
        "vault.import": _Call(take, {"secrets": _Argument(str, most=SECRETS_SIZE_MAX)}),
    }


def _recovery_calls(recovery: Recovery) -> dict[str, _Call]:
    async def plan(args: dict[str, Any], _progress: Progress) -> Any:
        return await recovery.plan(args["vault"])

    async def recover(args: dict[str, Any], progress: Progress) -> Any:
        return await recovery.recover(args["vault"], progress)

    return {
        "vault.recovery": _Call(plan, {"vault": _TEXT}),
        "vault.recover": _Call(recover, {"vault": _TEXT}, long=True),
    }


def _safekeeping_calls(safekeeping: Safekeeping) -> dict[str, _Call]:
    async def snapshot(args: dict[str, Any], progress: Progress) -> Any:
        return await safekeeping.snapshot(args["vault"], progress)

    return {"vault.snapshot": _Call(snapshot, {"vault": _TEXT}, long=True)}
