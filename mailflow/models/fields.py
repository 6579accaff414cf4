"""The primary key of rows whose id the application makes (`mailflow.ids.new_row_id`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

if TYPE_CHECKING:
    _BigIntegerField = models.BigIntegerField[int, int]
else:
    _BigIntegerField = models.BigIntegerField


class RowIdField(_BigIntegerField):
    """A 63-bit id. In SQLite it is the row's own number, so that it needs no index: only `integer` means that there."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        return "integer" if connection.vendor == "sqlite" else super().db_type(connection)

    def deconstruct(self) -> Any:
        name, _path, args, kwargs = super().deconstruct()
        return name, "mailflow.models.fields.RowIdField", args, kwargs
