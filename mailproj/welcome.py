"""What a newcomer reads when everything has started: where, who, and three commands to paste."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from mailproj import demo
from mailproj.ports import reachable, written


def text(logins: demo.Logins | None, log_dir: Path | None) -> str:
    """Return the text; in production (`logins` is None) only the addresses."""
    lines = ["", f"mailproj {settings.VERSION} is running. Ctrl-C ends it.", "", *_addresses(log_dir)]
    if logins is not None:
        lines += [*_logins(logins), "", "Try:", *(f"  {line}" for line in _commands(logins)), ""]
    return "\n".join(lines)


def _web() -> str:
    return f"http://{written(_name(settings.HTTP_HOST), settings.HTTP_PORT)}"


def _name(host: str) -> str:
    return "localhost" if reachable(host) in {"127.0.0.1", "::1"} else host


def _addresses(log_dir: Path | None) -> list[str]:
    smtp = _name(settings.SMTP_HOST)
    doors = []
    if settings.SMTP_PORT:
        doors.append(written(smtp, settings.SMTP_PORT) + (" (STARTTLS)" if settings.SMTP_ENABLE_TLS else ""))
    if settings.SMTPS_PORT and settings.SMTP_ENABLE_TLS:
        doors.append(f"{written(smtp, settings.SMTPS_PORT)} (TLS)")
    lines = [f"  Web       {_web()}/", f"  Admin     {_web()}/admin/", f"  SMTP      {', '.join(doors)}"]
    if settings.DELIVERY_MODE == "sandbox":
        lines.append("  Delivery  sandbox: mail to other domains is captured and shown, never sent. Addresses such as")
        lines.append("            bounced@sim.test and defer+3@sim.test behave as they are called (docs/sandbox.md)")
    if log_dir:
        lines.append(f"  Logs      {log_dir}/")
    return lines


def _logins(logins: demo.Logins) -> list[str]:
    given = "the one in ADMIN_PASSWORD" if settings.ADMIN_PASSWORD else (logins.admin_password or "as you changed it")
    return [
        f"  Log in    {logins.admin_username}, password {given}",
        f"  Mailboxes {', '.join(demo.MAILBOXES)} (@{demo.DOMAIN}), password {logins.mailbox_password or 'as changed'}",
        f"  API key   {demo.PUBLISHED_KEY} ({demo.PUBLISHED_KEY_LIMIT:,} messages a day)",
    ]


def _commands(logins: demo.Logins) -> list[str]:
    password = '"$ADMIN_PASSWORD"' if settings.ADMIN_PASSWORD else (logins.admin_password or "PASSWORD")
    body = '{"to": "user@example.com", "subject": "Hello", "text_body": "By HTTP."}'
    headers = f"-H 'X-API-Key: {demo.PUBLISHED_KEY}' -H 'Content-Type: application/json'"
    commands = [
        f"curl {_web()}/api/v1/send {headers} -d '{body}'",
        f"curl -u {logins.admin_username}:{password} {_web()}/api/v1/messages",
    ]
    if settings.SMTP_PORT:
        smtp = f"smtp://{written(_name(settings.SMTP_HOST), settings.SMTP_PORT)}"
        commands.insert(
            1,
            r"printf 'Subject: Hello\r\n\r\nBy SMTP.\r\n' | "
            f"curl {smtp} --mail-from you@example.org --mail-rcpt user@example.com -T -",
        )
    return commands
