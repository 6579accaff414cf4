"""Admin pages of people: users, with their password form, and groups. No hash is shown anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import membership, trail
from accounts.admin.base import by
from accounts.admin.trailed import TrailedAdmin
from accounts.billing import plans
from accounts.billing.plans import PlanLimitReached
from accounts.membership import AccountTaken, InvalidAccount
from accounts.models import User

if TYPE_CHECKING:
    from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm

    _UserAdmin = DjangoUserAdmin[Any]
    _Group = DjangoGroupAdmin
    _UserForm = forms.ModelForm[User]
    _Rules = _UserForm
    UserCreationForm = AdminUserCreationForm[User]
    _PasswordForm = AdminPasswordChangeForm[User]
else:
    from unfold.forms import AdminPasswordChangeForm, UserCreationForm

    _UserAdmin, _Group, _UserForm, _Rules = DjangoUserAdmin, DjangoGroupAdmin, forms.ModelForm, object
    _PasswordForm = AdminPasswordChangeForm

_NO_LOGIN = "Disabled: nobody logs in to the account; its mail is kept, and its API keys work."
_POWERS = ("is_staff", "is_superuser", "groups", "user_permissions")

admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(_Group, TrailedAdmin):
    """Django's own page, in our theme."""

    trail_kind = "group"


class AccountRules(_Rules):
    """The rules of the API, for staff, each told at its field; what is left as it was is not judged.

    The admin saves in the transaction that the form is checked in, so that a plan's limit holds.
    """

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        was, changed = self.instance, set(self.changed_data)
        name, address = data.get("username"), data.get("email") or was.email
        organization = data.get("organization", was.organization)
        if name and "username" in changed:
            self._check("username", membership.check_username, name, address)
        if data.get("email") and changed & {"email", "organization"}:
            user = User(pk=was.pk, organization=organization)
            self._check("email", membership.check_address, user, address, by_staff=True)
        if organization is not None and organization.pk != was.organization_id:
            self._check("organization", plans.check_mailboxes, organization)
        return data

    def _check(self, field: str, rule: Callable[..., None], *values: Any, **options: Any) -> None:
        try:
            rule(*values, **options)
        except InvalidAccount as error:
            self.add_error(field, " ".join(error.errors.values()))
        except (AccountTaken, PlanLimitReached) as error:
            self.add_error(field, str(error))


class ChangeUserForm(AccountRules, _UserForm):
    """An account as it is."""


class NewUserForm(AccountRules, UserCreationForm):
    """A new account; without an organization it is that of the domain which its address is in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["usable_password"].help_text = _NO_LOGIN
        self.fields["organization"].help_text = "Empty: the one whose domain the address is in, if there is one."

    def clean_password1(self) -> str:
        return _not_too_long(self.cleaned_data["password1"])

    def clean(self) -> dict[str, Any]:
        if self.cleaned_data.get("email") and not self.cleaned_data.get("organization"):
            self.cleaned_data["organization"] = membership.organization_of_address(self.cleaned_data["email"])
        return super().clean()


class ChangePasswordForm(_PasswordForm):
    """A new password for an account, or none; the theme's script shows the warning by its id."""

    usable_password_help_text = format_html(
        '{} <ul id="id_unusable_warning" class="messagelist"><li class="warning">{}</li></ul>',
        _NO_LOGIN,
        "If disabled, the password that it has is lost.",
    )

    def clean_password1(self) -> str:
        return _not_too_long(self.cleaned_data["password1"])


@admin.register(User)
class UserAdmin(_UserAdmin, TrailedAdmin):
    """Accounts. They are switched off rather than deleted here: `DELETE /api/v1/users/{username}` and `user-cli delete`
    remove one with all its mail. One that was deleted is not shown while its mail is being removed.

    Staff who are no superusers can neither give powers nor touch a superuser's account.
    """

    trail_kind = "user"
    form = ChangeUserForm
    add_form = NewUserForm
    change_password_form = ChangePasswordForm
    list_display = [
        "username", "email", "organization", "is_organization_admin", "is_staff", "is_active", "room", "last_login",
    ]  # fmt: skip
    list_filter = ["is_active", "is_staff", "is_superuser", "is_organization_admin"]
    list_select_related = ["organization"]
    search_fields = ["username", "email", "first_name", "last_name", "organization__name"]
    autocomplete_fields = ["organization"]
    readonly_fields = ["password_state", "room", "last_login", "date_joined"]
    fieldsets = [
        (None, {"fields": ["username", "email", "password_state", "is_active"]}),
        ("Person", {"fields": ["first_name", "last_name"]}),
        ("Mail", {"fields": ["organization", "is_organization_admin", "quota_mb", "room"]}),
        ("Powers", {"fields": list(_POWERS)}),
        ("Dates", {"fields": ["last_login", "date_joined"]}),
    ]
    add_fieldsets = [
        (
            None,
            {"fields": ["username", "email", "organization", "quota_mb", "usable_password", "password1", "password2"]},
        )
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        alive: QuerySet[Any] = super().get_queryset(request).filter(deleted_at__isnull=True)
        return alive

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fields = list(super().get_readonly_fields(request, obj))
        return fields if _is_superuser(request) else [*fields, *_POWERS]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is not None and obj.is_superuser and not _is_superuser(request):
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def trail_words(self, obj: Any) -> str:
        return f"{obj.email}, of {obj.organization.name if obj.organization else 'no organization'}."

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Leave a line in the trail where the password is another one afterwards."""
        if request.method != "POST":
            return super().user_change_password(request, id, form_url)
        with transaction.atomic():
            user = self.get_object(request, unquote(id))
            before = user.password if user else ""
            answer = super().user_change_password(request, id, form_url)
            if user is not None:
                user.refresh_from_db(fields=["password"])
            if user is not None and user.password != before:
                trail.leave([trail.entry("user.password_changed", user.username, "Changed: password.", by(request))])
        return answer

    @admin.display(description="password")
    def password_state(self, user: User) -> SafeString:
        state = (
            "Set; it can be changed, not read." if user.has_usable_password() else "None: no log-in with a password."
        )
        address = reverse("admin:auth_user_password_change", args=[user.pk])
        return format_html('{} <a href="{}" class="text-link">Change the password</a>', state, address)

    @admin.display(description="room used", ordering="used_octets")
    def room(self, user: User) -> str:
        used = filesizeformat(user.used_octets)
        return f"{used} of {user.quota_mb} MiB" if user.quota_mb else f"{used}, no limit"


def _not_too_long(password: str) -> str:
    try:
        membership.check_password_length(password)
    except InvalidAccount as error:
        raise forms.ValidationError(error.errors["password"]) from None
    return password


def _is_superuser(request: HttpRequest) -> bool:
    return request.user.is_active and request.user.is_superuser
