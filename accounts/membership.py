"""Accounts: made and changed, with the rules that keep tenants apart (contract §1.3).

An account's address is its mailbox, and what it may send from: so it must be in a domain of its organization, in a
verified one unless staff says otherwise, and nothing that an alias has already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounts import credentials
from accounts.billing import plans
from accounts.models import Alias, Domain, Organization, TrailEntry, User
from accounts.names import InvalidName, fold_address, parse_address

# RFC 2142 and what certificate authorities write to: whoever has one of these speaks for the domain.
SPEAKING_FOR_THE_DOMAIN = frozenset(
    [
        "abuse", "admin", "administrator", "dmarc", "hostmaster", "info", "mailer-daemon", "noc", "postmaster", "root",
        "security", "ssladmin", "support", "sysadmin", "webmaster",
    ]
)  # fmt: skip


class InvalidAccount(Exception):
    """Values that no account can have; `errors` names each field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(" ".join(f"{name}: {words}" for name, words in errors.items()))
        self.errors = errors


class AccountTaken(Exception):
    """Somebody or something has that name or address; the text says which."""


def organization_of_address(address: str) -> Organization | None:
    """Return the organization whose domain the address is in, if there is one."""
    domain = Domain.objects.select_related("organization").filter(name=address.rpartition("@")[2].lower()).first()
    return domain.organization if domain else None


def create(
    username: str,
    address: str,
    password: str,
    organization: Organization | None,
    *,
    by_staff: bool,
    actor: str,
    client: str = "",
    **values: Any,
) -> User:
    """Make an account; `values` are further fields.

    Raises `InvalidAccount`, `AccountTaken`, or `PlanLimitReached` by the organization's plan.
    """
    user = User(username=User.normalize_username(username), email=address, organization=organization, **values)
    check_username(user.username, address)
    check_address(user, address, by_staff=by_staff)
    check_password(password, user)
    user.password = credentials.hashed(password)
    try:
        with transaction.atomic():
            if organization is not None:
                plans.check_mailboxes(organization)
            user.save(force_insert=True)
            detail = f"{user.email}, of {organization.name}." if organization else f"{user.email}, of no organization."
            _trail("user.created", user, actor, client, detail)
    except IntegrityError:
        raise AccountTaken(_what_is_taken(user)) from None
    return user


def change(
    user: User,
    values: Mapping[str, Any],
    *,
    by_staff: bool,
    is_self: bool = False,
    actor: str,
    client: str = "",
) -> None:
    """Set fields of the account, all or none; `password` is the text, `email` the address; no change leaves no trace.

    Whether the actor may is the caller's to judge. Raises `InvalidAccount` or `AccountTaken`.
    """
    new = {name: value for name, value in values.items() if name == "password" or getattr(user, name) != value}
    if "email" in new and fold_address(new["email"]) == user.email:
        del new["email"]
    if not new:
        return
    if "organization" in new:
        user.organization = new["organization"]
    if "email" in new or "organization" in new:
        check_address(user, new.get("email", user.email), by_staff=by_staff, is_self=is_self)
    if "password" in new:
        check_password(new["password"], user)
        new["password"] = credentials.hashed(new["password"])
    for name, value in new.items():
        setattr(user, name, value)
    try:
        with transaction.atomic():
            if new.get("organization") is not None:
                plans.check_mailboxes(new["organization"])
            user.save(update_fields=list(new))
            kind = "user.password_changed" if list(new) == ["password"] else "user.changed"
            _trail(kind, user, actor, client, f"Changed: {', '.join(sorted(new))}.")
    except IntegrityError:
        raise AccountTaken(_what_is_taken(user)) from None


def check_username(username: str, address: str) -> None:
    """Whether an account with the address may have the name: by an address people and programs find its own account."""
    field = User._meta.get_field("username")
    try:
        field.run_validators(username)
    except ValidationError as error:
        raise InvalidAccount({"username": " ".join(error.messages)}) from None
    if username.isdecimal():  # a number in a path is an id
        raise InvalidAccount({"username": "A name of digits alone would be taken for an id."})
    if "@" in username and fold_address(username) != fold_address(address):
        raise InvalidAccount({"username": "A name with an @ in it must be the account's own address."})


def check_password(password: str, user: User) -> None:
    check_password_length(password)
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise InvalidAccount({"password": " ".join(error.messages)}) from None


def check_password_length(password: str) -> None:
    """A longer one would be kept and never let anybody in."""
    if len(password.encode("utf-8", "replace")) > credentials.MAX_PASSWORD_OCTETS:
        raise InvalidAccount({"password": f"At most {credentials.MAX_PASSWORD_OCTETS} octets."})


def check_address(user: User, text: str, *, by_staff: bool, is_self: bool = False) -> None:
    """Whether the account may have the address; `is_self`: somebody without powers wants it for themselves."""
    try:
        address = parse_address(text)
    except InvalidName as error:
        raise InvalidAccount({"email": f"Not a valid address: {error}."}) from None
    if address.domain.startswith("["):
        raise InvalidAccount({"email": "A mailbox needs a domain, not an address literal."})
    if fold_address(str(address)) != address.lookup_key:  # mail for it would look for another mailbox
        raise InvalidAccount({"email": "A mailbox's name can have neither quotes nor a + in it."})
    domain = Domain.objects.filter(name=address.domain).first()
    if domain is not None and user.organization_id is not None and domain.organization_id != user.organization_id:
        raise InvalidAccount({"email": f"{address.domain} is not a domain of the account's organization."})
    if not by_staff and (domain is None or not domain.is_usable):
        raise InvalidAccount({"email": f"{address.domain} is not a verified domain of the account's organization."})
    if is_self and address.folded_local_part in SPEAKING_FOR_THE_DOMAIN:
        raise InvalidAccount({"email": "An address that speaks for the domain needs an administrator."})
    if domain is not None and _is_alias(domain, address.folded_local_part):
        raise AccountTaken(f"An alias has the address {address.unicode}.")
    if User.objects.exclude(pk=user.pk).filter(username__iexact=fold_address(str(address))).exists():
        raise AccountTaken(f"Another account is named {address.unicode}.")


def _is_alias(domain: Domain, local_part: str) -> bool:
    return Alias.objects.filter(domain=domain, local_part=local_part, is_active=True).exists()


def _what_is_taken(user: User) -> str:
    others = User.objects.exclude(pk=user.pk)
    if others.filter(username=user.username).exists():  # first, for where both are: who is made twice is this user
        return f"A user named {user.username} exists already."
    return f"The address {user.email} is another account's."


def _trail(kind: str, user: User, actor: str, client: str, detail: str) -> None:
    TrailEntry.objects.create(kind=kind, actor=actor[:254], subject=user.username, client_address=client, detail=detail)
