"""Run in a process of its own with a system's environment: accepts numbered messages for the slow destinations."""

from __future__ import annotations

import os
import sys

import django

BATCH = 100


def main(first: int, count: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
    django.setup()
    from django.db import transaction  # noqa: PLC0415  (after the setup, as below)

    from accounts.names import parse_address  # noqa: PLC0415
    from bench.slow_sink import DESTINATIONS, domain  # noqa: PLC0415
    from mailflow import receiver  # noqa: PLC0415
    from mailflow.models import Message  # noqa: PLC0415
    from mailflow.smtp.envelope import Envelope, Recipient  # noqa: PLC0415
    from mailflow.spool.accepted import Origin  # noqa: PLC0415
    from queue.tasks import deliver  # noqa: PLC0415

    def submission(number: int) -> receiver.Submission:
        recipient = parse_address(f"u{number}@{domain(number % DESTINATIONS)}")
        return receiver.Submission(
            source=Message.Source.SUBMISSION.value,
            envelope=Envelope(parse_address("user@example.com"), [Recipient(recipient)]),
            origin=Origin(protocol="ESMTP", trace_id="bench"),
            content=f"Subject: number {number}\r\n\r\n".encode() + b"x" * 2000 + b"\r\n",
        )

    ids: list[int] = []
    for start in range(first, first + count, BATCH):
        with transaction.atomic():
            ids += receiver.accept_within(
                [submission(number) for number in range(start, min(start + BATCH, first + count))]
            )
    for start in range(0, len(ids), BATCH):
        deliver.apply_async((ids[start : start + BATCH],))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
