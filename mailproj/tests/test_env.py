"""Settings: each reader's right and wrong values, and the one line that a wrong one costs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mailproj.env import Environment, SettingError, parse_seconds, split_host_port
from mailproj.tests.starting import PRODUCTION, ROOT, environment, run


def env(**values: str) -> Environment:
    return Environment(values)


def test_a_name_that_is_not_set_gives_the_default() -> None:
    assert env().integer("X", 7, low=1, high=9) == 7


def test_an_empty_value_counts_as_not_set() -> None:
    assert env(X="  ").text("X", "default") == "default"


def test_an_alias_is_read_where_the_main_name_is_not_set() -> None:
    assert env(B="two").text(("A", "B")) == "two"


def test_the_main_name_wins_over_its_alias() -> None:
    assert env(A="one", B="two").text(("A", "B")) == "one"


@pytest.mark.parametrize(
    ("text", "expected"), [("1", True), ("Yes", True), ("ON", True), ("false", False), ("no", False)]
)
def test_a_boolean_has_several_spellings(text: str, expected: bool) -> None:
    assert env(X=text).boolean("X", not expected) is expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("1.5", 1.5), ("90s", 90), ("15m", 900), ("4h", 14400), ("5d", 432000)]
)
def test_a_duration_has_units(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "1w", "nan", "inf", "1e99"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_seconds(text)


def test_a_schedule_is_a_list_of_durations() -> None:
    assert env(X="1m, 2h").durations("X", "1s") == [timedelta(minutes=1), timedelta(hours=2)]


def test_networks_may_be_single_addresses_and_of_both_families() -> None:
    assert env(X="10.0.0.1/8, ::1").networks("X", []) == [
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    ]


def test_origins_are_kept_as_browsers_write_them() -> None:
    given = (
        "https://App.Example.com/, HTTP://localhost:3000, https://a.example:443, http://[::1]:80, http://bücher.example"
    )
    assert env(X=given).origins("X") == [
        "https://app.example.com", "http://localhost:3000", "https://a.example", "http://[::1]",
        "http://xn--bcher-kva.example",
    ]  # fmt: skip
    assert (env(X="*").origins("X"), env().origins("X"), env(X="http://127.0.0.1:5173").origins("X")) == (
        ["*"], [], ["http://127.0.0.1:5173"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        "app.example.com", "https://", "ftp://a.example", "https://a.example/path", "https://a.example?x", "null",
        "https://user@a.example", "https://a.example:port", "https://*.example", "*, https://a.example", "https://a.b,",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused(value: str) -> None:
    with pytest.raises(SettingError, match="without paths, or \\* alone"):
        env(X=value).origins("X")


def test_none_turns_a_list_of_networks_off() -> None:
    assert env(X="none").networks("X", ["127.0.0.0/8"]) == []


def test_name_servers_have_a_port_or_the_usual_one() -> None:
    assert env(X="127.0.0.1:5353,::1,[::1]:54").nameservers("X") == [("127.0.0.1", 5353), ("::1", 53), ("::1", 54)]


def test_a_bare_ipv6_address_is_not_cut_at_its_last_colon() -> None:
    assert split_host_port("2001:db8::25", 25) == ("2001:db8::25", 25)


@pytest.mark.parametrize("value", ["1.9s", "0", "61m"])
def test_a_duration_out_of_its_bounds_is_refused_and_they_are_named(value: str) -> None:
    with pytest.raises(SettingError, match=r"5d, from 2s to 1h\.$"):
        env(X=value).seconds("X", 30, low=2, high=3600)


@pytest.mark.parametrize(("value", "seconds"), [("2", 2), ("1h", 3600)])
def test_the_bounds_of_a_duration_are_allowed_themselves(value: str, seconds: float) -> None:
    assert env(X=value).seconds("X", 30, low=2, high=3600) == seconds


def test_a_schedule_with_one_wait_too_short_is_refused() -> None:
    with pytest.raises(SettingError, match=r"each from 0\.1s to 3650d\.$"):
        env(X="1m,0,5m").durations("X", "1s", low=0.1)


@pytest.mark.parametrize(
    ("text", "name"), [("Mail.Example.COM.", "mail.example.com"), ("bücher.example", "xn--bcher-kva.example")]
)
def test_a_host_name_is_kept_in_its_ascii_form(text: str, name: str) -> None:
    assert env(X=text).host_name("X", "localhost") == name


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda e: e.integer("X", 1, low=1, high=9), "ten"),
        (lambda e: e.integer("X", 1, low=1, high=9), "10"),
        (lambda e: e.port("X", 1), "65536"),
        (lambda e: e.ports("X", []), "80,http"),
        (lambda e: e.boolean("X", True), "maybe"),
        (lambda e: e.choice("X", "a", ["a", "b"]), "c"),
        (lambda e: e.networks("X", []), "10.0.0.0/99"),
        (lambda e: e.seconds("X", 1), "soon"),
        (lambda e: e.durations("X", "1s"), "1s,later"),
        (lambda e: e.durations("X", "1s"), ","),
        (lambda e: e.host_name("X", "localhost"), "two words"),
        (lambda e: e.host_name("X", "localhost"), "mail..example.com"),
        (lambda e: e.nameservers("X"), "dns.example.com"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_itself_and_what_is_allowed(
    read: Callable[[Environment], object], value: str
) -> None:
    with pytest.raises(SettingError, match=r"^Setting X has the value .*; allowed: .+\.$") as refused:
        read(env(X=value))
    assert repr(value) in str(refused.value)


def test_a_secret_is_not_repeated_in_the_line_about_it() -> None:
    assert "hunter2" not in str(SettingError("X", "hunter2", "something longer", secret=True))


ENTRY_POINTS = {
    "manage.py": ["manage.py", "check"],
    "celery worker": ["-m", "celery", "-A", "mailproj", "worker", "-P", "solo"],
    "celery beat": ["-m", "celery", "-A", "mailproj", "beat"],
    "gunicorn": ["-m", "gunicorn", "mailproj.wsgi"],
}


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_entry_point_ends_with_one_line_about_a_wrong_value(entry_point: str, tmp_path: Path) -> None:
    ended = run(ENTRY_POINTS[entry_point], environment(tmp_path, SMTP_PORT="smtp"))
    assert ended.returncode == 1
    assert ended.stderr.strip() == "Setting SMTP_PORT has the value 'smtp'; allowed: a whole number from 0 to 65535."


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"STORAGE_URL": "http://storage:8002"}, "Setting STORAGE_URL has the value 'http://storage:8002'"),
        ({"MAIL_DATA_DIR": "/dev/null/data"}, "Setting MAIL_DATA_DIR has the value '/dev/null/data'"),
        ({"DATABASE_URL": "mysql://root:hunter2@db/mail"}, "Setting DATABASE_URL has the value (hidden)"),
        ({"DATABASE_URL": "hunter2"}, "Setting DATABASE_URL has the value (hidden)"),
        ({"SMTP_STORAGE_TYPE": "floppy"}, "allowed: maildir or database."),
        ({"SMTP_HOSTNAME": "mail..example.com"}, "allowed: a host name such as mail.example.com."),
        ({"QUEUE_LEASE_SECONDS": "0"}, "Setting QUEUE_LEASE_SECONDS has the value '0'"),
        ({"QUEUE_MAX_AGE": "0"}, "Setting QUEUE_MAX_AGE has the value '0'"),
        ({"SMTP_TIMEOUT": "0"}, "Setting SMTP_TIMEOUT has the value '0'"),
        ({"OUTBOUND_TIMEOUT": "0"}, "Setting OUTBOUND_TIMEOUT has the value '0'"),
        ({"OUTBOUND_CONNECT_TIMEOUT": "0"}, "Setting OUTBOUND_CONNECT_TIMEOUT has the value '0'"),
        ({"SWEEP_INTERVAL_SECONDS": "0"}, "Setting SWEEP_INTERVAL_SECONDS has the value '0'"),
        ({"RETRY_SCHEDULE": "1m,0"}, "Setting RETRY_SCHEDULE has the value '1m,0'"),
        ({"SMTP_RATE_LIMIT_MESSAGES": "-1"}, "Setting SMTP_RATE_LIMIT_MESSAGES has the value '-1'"),
        ({"SMTP_RATE_LIMIT_EXEMPT": "home"}, "Setting SMTP_RATE_LIMIT_EXEMPT has the value 'home'"),
        ({"ADMIN_USERNAME": "two words"}, "Setting ADMIN_USERNAME has the value 'two words'"),
        ({"MAIL_PROFILE": "production"}, "Setting SECRET_KEY is not set"),
        ({**PRODUCTION, "SECRET_KEY": "hunter2"}, "Setting SECRET_KEY has the value (hidden)"),
        ({**PRODUCTION, "ALLOWED_HOSTS": ""}, "Setting ALLOWED_HOSTS is not set"),
        (PRODUCTION, "Setting DATABASE_URL is not set"),
    ],
)
def test_the_settings_refuse_in_one_line(variables: dict[str, str], line: str, tmp_path: Path) -> None:
    ended = run(["-c", "import mailproj.settings"], {**environment(tmp_path), **variables})
    assert ended.returncode == 1
    assert line in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "hunter2" not in ended.stderr


def _smtp_port(data: Path, **settings: str) -> str:
    code = "from mailproj import settings; print(settings.SMTP_PORT)"
    return run(["-c", code], environment(data, **settings)).stdout.strip()


def test_a_setting_is_read_from_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nSMTP_PORT=3025\n")
    assert _smtp_port(tmp_path, MAIL_ENV_FILE=str(tmp_path / "env")) == "3025"


def test_the_real_environment_wins_over_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("SMTP_PORT=3025\n")
    assert _smtp_port(tmp_path, MAIL_ENV_FILE=str(tmp_path / "env"), SMTP_PORT="4025") == "4025"


def test_the_example_of_an_env_file_changes_nothing(tmp_path: Path) -> None:
    assert _smtp_port(tmp_path, MAIL_ENV_FILE=str(ROOT / ".env.example")) == "2525"


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [({"SMTP_TIMEOUT": "30"}, "30.0"), ({"SMTP_TIMEOUT": "30", "SMTP_TIMEOUT_SECONDS": "60"}, "60.0")],
)
def test_the_older_name_of_the_timeout_is_an_alias(variables: dict[str, str], seconds: str, tmp_path: Path) -> None:
    code = "from mailproj import settings; print(settings.SMTP_TIMEOUT)"
    assert run(["-c", code], environment(tmp_path, **variables)).stdout.strip() == seconds


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 900),
        ({"OUTBOUND_MAIL_TIMEOUT": "1d"}, 86400 + 300 + 120),
        ({"OUTBOUND_MAIL_TIMEOUT": "1d", "OUTBOUND_ENVELOPE_TIMEOUT": "60"}, 60),
    ],
)
def test_a_long_wait_for_one_command_is_not_cut_off_by_that_for_all(
    variables: dict[str, str], seconds: float, tmp_path: Path
) -> None:
    code = "from mailproj import settings; print(settings.OUTBOUND_ENVELOPE_TIMEOUT)"
    assert float(run(["-c", code], environment(tmp_path, **variables)).stdout) == seconds


def test_former_secret_keys_are_a_list(tmp_path: Path) -> None:
    code = "from mailproj import settings; print(settings.SECRET_KEY_FALLBACKS)"
    assert run(["-c", code], environment(tmp_path)).stdout.strip() == "[]"
    variables = environment(tmp_path, SECRET_KEY_FALLBACKS="yesterday, the-day-before")
    assert run(["-c", code], variables).stdout.strip() == "['yesterday', 'the-day-before']"


def test_encryption_keys_are_32_octets_each_and_a_wrong_one_is_never_shown(tmp_path: Path) -> None:
    code = "from mailproj import settings; print([len(key) for key in settings.ENCRYPTION_KEYS])"
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    assert run(["-c", code], environment(tmp_path, ENCRYPTION_KEYS=f"{key},{key}")).stdout.strip() == "[32, 32]"
    ended = run(["-c", code], environment(tmp_path, ENCRYPTION_KEYS="dG9vIHNob3J0"))
    assert ended.returncode == 1
    assert "ENCRYPTION_KEYS" in ended.stderr
    assert "dG9v" not in ended.stderr


def test_production_passes_the_deployment_check_without_a_word(tmp_path: Path) -> None:
    variables = environment(tmp_path, **PRODUCTION, DATABASE_URL=f"sqlite:///{tmp_path}/mail.sqlite3")
    ended = run(["manage.py", "check", "--deploy", "--fail-level", "INFO"], variables)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "System check identified no issues (0 silenced)."


def test_every_setting_stands_in_the_documentation_and_nothing_else_does() -> None:
    source = (ROOT / "mailproj" / "settings.py").read_text()
    calls = re.findall(r'env\.\w+\(\s*(?:\(([^)]*)\)|"(\w+)")', source)
    read = {name for many, one in calls for name in (re.findall(r'"(\w+)"', many) if many else [one])}
    read |= set(re.findall(r'os\.environ\.get\("(\w+)"', source))
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "settings.md").read_text(), flags=re.MULTILINE))
    assert read == documented
