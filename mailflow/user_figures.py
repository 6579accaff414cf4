"""What an account has received, sent and keeps (R4's `statistics`)."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from accounts.models import User
from mailflow.models import Message

MIB = 1024 * 1024


def used_mb(user: User) -> float:
    """Return the room taken by kept mail, in MiB, to one decimal."""
    return float(_tenths(Decimal(user.used_octets) / MIB))


def used_percent(user: User) -> str:
    """Return how much of the quota is used, such as `23.5`; empty where there is no quota."""
    if not user.quota_mb:
        return ""
    return str(_tenths(Decimal(user.used_octets) * 100 / (user.quota_mb * MIB)))


def statistics(user: User) -> dict[str, int | float]:
    """Count with one query; what was sent is told of records that are kept and of those that went before."""
    sent = Message.objects.filter(user_id=user.pk).count()
    return {
        "messages_received": user.received_count,
        "messages_sent": user.pruned_sent_count + sent,
        "storage_used_mb": used_mb(user),
    }


def _tenths(number: Decimal) -> Decimal:
    return number.quantize(Decimal("0.1"), ROUND_HALF_UP)
