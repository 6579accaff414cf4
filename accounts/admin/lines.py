"""A form's field for a list of texts, one a line, in place of JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError

from accounts.names import InvalidName

if TYPE_CHECKING:
    UnfoldAdminTextareaWidget = forms.Textarea
else:
    from unfold.widgets import UnfoldAdminTextareaWidget


class LinesField(forms.CharField):
    """A list of at most `most` texts; each is checked by `parse`, which raises `InvalidName`."""

    def __init__(self, parse: Any, *, most: int, required: bool = False, **kwargs: Any) -> None:
        self._parse, self._most = parse, most
        super().__init__(required=required, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Line ends of a browser, and blank lines, are no change."""
        return _lines(self.prepare_value(initial)) != _lines(data)

    def clean(self, value: Any) -> Any:
        lines = _lines(super().clean(value))
        if len(lines) > self._most:
            raise ValidationError(f"At most {self._most} lines.")
        try:
            return [str(self._parse(line)) for line in lines]
        except InvalidName as error:
            raise ValidationError(f"Not valid: {error}.") from None


def _lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]
