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
from meshhold.admin.services import Access, Care, Status, Vaults
from meshhold.errors import InvalidError, UnavailableError
from meshhold.model.grant import parse_permissions

CALL_S_MAX: Final = 100.0  # below the client's patience, so that the daemon's own message arrives
TEXT_LENGTH_MAX: Final = 1024
_REQUIRED: Final = object()
_KINDS: Final = {str: "a text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class _Argument:
    kind: type
    default: object = _REQUIRED


@dataclass(frozen=True, slots=True)
class _Call:
    run: Callable[[dict[str, Any], Progress], Awaitable[Any]]
    arguments: dict[str, _Argument]
    long: bool = False


_TEXT: Final = _Argument(str)
_OPTIONAL_TEXT: Final = _Argument(str, None)
_FLAG: Final = _Argument(bool, default=False)


def make_dispatch(vaults: Vaults, access: Access, care: Care, status: Status) -> Dispatch:
    """Return what `run_admin` serves: every call of this node."""
    calls = _vault_calls(vaults) | _access_calls(access) | _care_calls(care) | {"status": _Call(_status(status), {})}

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
        elif type(value) is not argument.kind:  # a bool is an int to isinstance
            raise InvalidError(f"{call}: {name!r} is a {type(value).__name__}", f"give {_KINDS[argument.kind]}")
        elif isinstance(value, str):
            _check_text(call, name, value)
        checked[name] = value
    return checked


def _check_text(call: str, name: str, value: str) -> None:
    if len(value) > TEXT_LENGTH_MAX:
        raise InvalidError(f"{call}: {name!r} has {len(value)} characters", f"use at most {TEXT_LENGTH_MAX}")
    if not value.isprintable():
        raise InvalidError(f"{call}: {name!r} has a control character", "use printable characters")


def _status(status: Status) -> Callable[[dict[str, Any], Progress], Awaitable[Any]]:
    async def show(_args: dict[str, Any], _progress: Progress) -> Any:
        return status()

    return show


def _vault_calls(vaults: Vaults) -> dict[str, _Call]:
    async def create(args: dict[str, Any], _progress: Progress) -> Any:
        return await vaults.create(args["name"], replication_factor=args["replication_factor"])

    async def views(_args: dict[str, Any], _progress: Progress) -> Any:
        return vaults.views()

    async def show(args: dict[str, Any], _progress: Progress) -> Any:
        return vaults.view(args["vault"])

    async def delete(args: dict[str, Any], _progress: Progress) -> Any:
        await vaults.delete(args["vault"], force=args["force"])

    async def set_alias(args: dict[str, Any], _progress: Progress) -> Any:
        return await vaults.set_alias(args["vault"], args["alias"])

    return {
        "vault.create": _Call(create, {"name": _TEXT, "replication_factor": _Argument(int, 3)}),
        "vault.list": _Call(views, {}),
        "vault.show": _Call(show, {"vault": _TEXT}),
        "vault.delete": _Call(delete, {"vault": _TEXT, "force": _FLAG}),
        "vault.alias": _Call(set_alias, {"vault": _TEXT, "alias": _TEXT}),
    }


def _access_calls(access: Access) -> dict[str, _Call]:
    async def add_key(args: dict[str, Any], _progress: Progress) -> Any:
        return await access.add_key(args["label"], create_buckets=args["create_buckets"])

    async def keys(_args: dict[str, Any], _progress: Progress) -> Any:
        return access.keys()

    async def remove_key(args: dict[str, Any], _progress: Progress) -> Any:
        await access.remove_key(args["access_key_id"])

    async def grant(args: dict[str, Any], _progress: Progress) -> Any:
        permissions = parse_permissions(args["permissions"])
        return await access.grant(args["access_key_id"], args["vault"], permissions, allow_list=args["allow_list"])

    async def grants(_args: dict[str, Any], _progress: Progress) -> Any:
        return access.grants()

    async def revoke(args: dict[str, Any], _progress: Progress) -> Any:
        await access.revoke(args["access_key_id"], args["vault"])

    target = {"access_key_id": _TEXT, "vault": _TEXT}
    return {
        "key.add": _Call(add_key, {"label": _TEXT, "create_buckets": _FLAG}),
        "key.list": _Call(keys, {}),
        "key.remove": _Call(remove_key, {"access_key_id": _TEXT}),
        "grant.set": _Call(grant, target | {"permissions": _TEXT, "allow_list": _FLAG}),
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
