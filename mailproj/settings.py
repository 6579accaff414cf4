"""All settings, read from the environment and `.env` (docs/settings.md lists every one; docs/adr/0005).

Two profiles: `demo` (what `make run` starts: loopback, SQLite, sandbox delivery, generated secrets) and `production`,
where nothing is generated and nothing has an unsafe default.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

import environ
from django.urls import reverse_lazy

from accounts.webhooks.names import EVENTS
from mailproj.env import Environment, SettingError
from mailproj.logging import logging_config

BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"

_dotenv = Path(os.environ.get("MAIL_ENV_FILE") or BASE_DIR / ".env")
if _dotenv.is_file():
    environ.Env.read_env(str(_dotenv), overwrite=False)  # a variable of the real environment wins
env = Environment(os.environ)
GIVEN_VARIABLES = env.given()  # to tell a default from what somebody set

if env.text("STORAGE_URL"):
    raise SettingError(
        "STORAGE_URL", env.text("STORAGE_URL"), "nothing: there is no storage service, see SMTP_STORAGE_TYPE"
    )

# --- profile and places ----------------------------------------------------------------------------------------------
MAIL_PROFILE = env.choice("MAIL_PROFILE", "demo", ["demo", "production"])
DEMO = MAIL_PROFILE == "demo"
MAIL_DATA_DIR = Path(env.text("MAIL_DATA_DIR", str(BASE_DIR / "var"))).resolve()
RUN_DIR = MAIL_DATA_DIR / "run"
try:
    MAIL_DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
except OSError as error:
    raise SettingError("MAIL_DATA_DIR", str(MAIL_DATA_DIR), f"a folder that can be made ({error.strerror})") from None
if not os.access(MAIL_DATA_DIR, os.W_OK | os.X_OK):
    raise SettingError("MAIL_DATA_DIR", str(MAIL_DATA_DIR), "a folder that can be written to")
DEBUG = env.boolean("DEBUG", False)


def _generated_secret() -> str:
    """Return the demo's secret key, made once and kept readable by the owner alone."""
    path = MAIL_DATA_DIR / "secret_key"
    if path.is_file():
        return path.read_text().strip()
    fresh = path.with_name(f"secret_key.{os.getpid()}")
    fresh.touch(mode=0o600)
    fresh.write_text(secrets.token_urlsafe(50))
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)  # the first of several processes wins, the others read what it wrote
    fresh.unlink()
    return path.read_text().strip()


if DEMO:
    SECRET_KEY = env.text("SECRET_KEY") or _generated_secret()
    ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
else:
    SECRET_KEY = env.required("SECRET_KEY", "a long random string")
    if len(SECRET_KEY) < 32:
        raise SettingError("SECRET_KEY", SECRET_KEY, "at least 32 characters", secret=True)
    env.required("ALLOWED_HOSTS", "host names separated by commas")
    ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", [])
SECRET_KEY_FALLBACKS = env.words("SECRET_KEY_FALLBACKS", [])
ENCRYPTION_KEYS = env.encryption_keys("ENCRYPTION_KEYS")
_loopback_or_all = "127.0.0.1" if DEMO else "0.0.0.0"  # noqa: S104  (a production container binds all its addresses)

# --- Django ----------------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold",
    "mailproj.admin_apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_structlog",
    "django_prometheus",
    "django_filters",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "mailproj",
    "accounts",
    "mailflow",
    "queue",
]
MIDDLEWARE = [
    "mailproj.proxies.client_address",  # before all that looks at the address, and SecurityMiddleware
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "mailproj.middleware.request_id",  # before structlog, which binds it
    "mailproj.request_log.RequestLog",
    "mailproj.middleware.count_requests",
    "mailproj.middleware.api_version",
    "mailproj.cors.cross_origin",  # before the limits: a page must be able to read their refusals
    "mailproj.rate_limits.rate_limit_headers",
    "mailproj.rate_limits.count_the_rest",
    "mailproj.middleware.limit_body",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "mailproj.browsers.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "mailproj.browsers.AuthenticationMiddleware",
    "mailproj.browsers.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "mailproj.request_metrics.PrometheusAfterMiddleware",
]
ROOT_URLCONF = "mailproj.urls"
WSGI_APPLICATION = "mailproj.wsgi.application"
APPEND_SLASH = True
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "mailproj.formats"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = Path(env.text("STATIC_ROOT", str(MAIL_DATA_DIR / "static")))
WHITENOISE_USE_FINDERS = DEMO
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = ["accounts.hashers.Argon2idHasher"]
AUTHENTICATION_BACKENDS = ["mailproj.admin_login.GuardedBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
SILENCED_SYSTEM_CHECKS: list[str] = []
DATA_UPLOAD_MAX_MEMORY_SIZE = None  # the API's own limit answers before the body is read

# --- database --------------------------------------------------------------------------------------------------------
_db_path = env.text("SMTP_DB_PATH")
_default_db = f"sqlite:///{Path(_db_path).resolve() if _db_path else MAIL_DATA_DIR / 'mail.sqlite3'}"
if DEMO or _db_path:
    DATABASE_URL = env.text("DATABASE_URL", _default_db)
else:
    DATABASE_URL = env.required("DATABASE_URL", "postgresql://user:password@host/name or sqlite:////path")
try:
    if DATABASE_URL.partition("://")[0] not in {"sqlite", "postgres", "postgresql"}:
        raise ValueError(DATABASE_URL)
    _database = environ.Env.db_url_config(DATABASE_URL)
except Exception:  # noqa: BLE001  (django-environ raises many kinds; the operator needs one line)
    raise SettingError("DATABASE_URL", DATABASE_URL, "postgresql://… or sqlite:///path", secret=True) from None
SQLITE = _database["ENGINE"] == "django.db.backends.sqlite3"
if SQLITE:
    Path(str(_database["NAME"])).parent.mkdir(parents=True, exist_ok=True)
    _database["TEST"] = {"NAME": f"{_database['NAME']}.test"}  # a file: threads and processes of a test share it
    _database["CONN_MAX_AGE"] = None  # opening a file and its pragmas costs more than a request's queries
    _database["OPTIONS"] = {
        # IMMEDIATE: a transaction that will write takes the lock first and can wait for it; a read that turns into a
        # write cannot. FULL: a commit is on disk when it returns (250 means on disk).
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": (
            "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
            "PRAGMA cache_size=-32768; PRAGMA wal_autocheckpoint=4000; PRAGMA journal_size_limit=67108864;"
        ),
    }
else:
    _database["CONN_HEALTH_CHECKS"] = True
    _database["OPTIONS"] = {
        **_database.get("OPTIONS", {}),
        "pool": {
            "min_size": 0,
            "max_size": env.integer("DATABASE_POOL_SIZE", 16, low=2, high=500),
            "timeout": 10,
        },
    }
DATABASES = {"default": _database}

# --- web -------------------------------------------------------------------------------------------------------------
HTTP_HOST = env.text("HTTP_HOST", _loopback_or_all)
HTTP_PORT = env.integer("HTTP_PORT", 8000, low=1, high=65535)
HTTP_EXTRA_PORTS = env.ports("HTTP_EXTRA_PORTS", [8003, 8080] if DEMO else [])
HTTP_WORKERS = env.integer("HTTP_WORKERS", 1 if SQLITE else 2, low=1, high=64)
HTTP_THREADS = env.integer("HTTP_THREADS", 16, low=1, high=256)
MAX_REQUEST_SIZE = env.integer("MAX_REQUEST_SIZE", 262144, low=1024, high=2**31)
SEND_MAX_REQUEST_SIZE = env.integer("SEND_MAX_REQUEST_SIZE", 41943040, low=1024, high=2**31)
CORS_ORIGINS = env.origins("CORS_ORIGINS")
HTTP_TRUSTED_PROXIES = env.networks("HTTP_TRUSTED_PROXIES", [])
METRICS_ALLOWED_NETWORKS = env.networks("METRICS_ALLOWED_NETWORKS", [])
METRICS_BEARER_TOKEN = env.text("METRICS_BEARER_TOKEN")
CSRF_FAILURE_VIEW = "mailproj.errors.no_csrf_token"
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS", [])
ADMIN_USERNAME = env.text("ADMIN_USERNAME", "admin")
if not re.fullmatch(r"[\w.@+-]{1,150}", ADMIN_USERNAME):
    raise SettingError("ADMIN_USERNAME", ADMIN_USERNAME, "1 to 150 letters, digits and @ . + - _")
ADMIN_PASSWORD = env.text("ADMIN_PASSWORD")
if not DEMO:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")  # of HTTP_TRUSTED_PROXIES only (mailproj.proxies)
    SECURE_SSL_REDIRECT = env.boolean("SECURE_SSL_REDIRECT", True)
    SECURE_REDIRECT_EXEMPT = [r"^health/?$", r"^api/(v1/)?health/?$", r"^metrics/?$"]
    SECURE_HSTS_SECONDS = env.integer("SECURE_HSTS_SECONDS", 31536000, low=0, high=10**9)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "mailproj.api.guard.GuardedKeyAuthentication",
        "mailproj.api.guard.GuardedBasicAuthentication",
        "accounts.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_THROTTLE_CLASSES": ["mailproj.api.throttling.MinuteThrottle"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "URL_FORMAT_OVERRIDE": None,  # `?format=` is a view's own parameter, or nobody's
    "DEFAULT_PARSER_CLASSES": ["accounts.api.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "mailproj.api.refusals.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "mailproj API",
    "VERSION": "1.0",
    "OAS_VERSION": "3.1.0",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},  # by default it would ask validator.swagger.io
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "DomainStatusEnum": "accounts.models.domain.Domain.Status",
        "DnsRecordStatusEnum": "accounts.api.domains.STATE_CHOICES",
        "WebhookDeliveryStatusEnum": "accounts.models.webhook.WebhookDelivery.Status",
        "WebhookEventEnum": "accounts.webhooks.names.CHOICES",
        "MessageStatusEnum": "mailflow.models.message.Message.Status",
        "RecipientStatusEnum": "queue.models.entry.Entry.Status",
        "QueueStatusEnum": "queue.api.entries.STATUS_CHOICES",
        "SuppressionReasonEnum": "queue.models.suppression.Suppression.Reason",
        "QueueActionStatusEnum": "queue.models.action.QueueAction.Status",
    },
    "PREPROCESSING_HOOKS": ["accounts.api.schema.canonical_only"],
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "mailproj.api.schema_hooks.complete"],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
}
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
UNFOLD = {
    "SITE_TITLE": "mailproj",
    "SITE_HEADER": "mailproj",
    "SITE_SYMBOL": "mail",  # from the icon font that the theme ships: no request leaves this host
    "STYLES": ["mailproj.dashboard.styles"],
    "SCRIPTS": ["mailproj.dashboard.scripts"],
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "mailproj.dashboard.favicon"}],
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "mailproj.dashboard.figures",
    "SIDEBAR": {"navigation": "mailproj.dashboard.navigation"},
    "TABS": [
        {
            "page": "queue",
            "models": ["queue.entry", "queue.queueaction"],
            "items": [
                {
                    "title": "Entries",
                    "link": reverse_lazy("admin:queue_entry_changelist"),
                    "active": "mailproj.dashboard.shows_queue_entries",
                },
                {"title": "By domain", "link": reverse_lazy("admin:queue_entry_domains")},
                {"title": "Actions", "link": reverse_lazy("admin:queue_queueaction_changelist")},
                {"title": "Workers", "link": reverse_lazy("admin:queue_worker_changelist")},
                {
                    "title": "Act by a filter",
                    "link": reverse_lazy("admin:queue_entry_act"),
                    "permission": "mailproj.dashboard.may_control_queue",
                },
            ],
        }
    ],
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.6)",
            "100": "oklch(93.2% .032 255.6)",
            "200": "oklch(88.2% .059 254.1)",
            "300": "oklch(80.9% .105 251.8)",
            "400": "oklch(70.7% .165 254.6)",
            "500": "oklch(62.3% .214 259.8)",
            "600": "oklch(54.6% .245 262.9)",
            "700": "oklch(48.8% .243 264.4)",
            "800": "oklch(42.4% .199 265.6)",
            "900": "oklch(37.9% .146 265.5)",
            "950": "oklch(28.2% .091 267.9)",
        }
    },
}


# --- Redis and Celery: the doorbell ----------------------------------------------------------------------------------
def _default_redis_url() -> str:
    """Return the address of the Redis that `runall` started on this data, if one runs, for commands beside it."""
    try:
        return (RUN_DIR / "redis.url").read_text().strip()
    except FileNotFoundError:
        return "redis://127.0.0.1:6379/0"


REDIS_URL = env.text("REDIS_URL") or _default_redis_url()
CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 4
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_TASK_DEFAULT_QUEUE = "mailproj"
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 2,
    "socket_timeout": 10,
    "visibility_timeout": env.seconds("REDIS_VISIBILITY_TIMEOUT", 3600, low=1, high=86400),
}
SWEEP_INTERVAL_SECONDS = env.seconds("SWEEP_INTERVAL_SECONDS", 15, low=0.2, high=3600)
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "queue.sweep",
        "schedule": SWEEP_INTERVAL_SECONDS,
        "options": {"expires": max(5.0, SWEEP_INTERVAL_SECONDS)},
    },
    "tls-reports": {"task": "queue.tls_reports", "schedule": 600.0, "options": {"expires": 600}},
    "verify-domains": {"task": "accounts.verify_domains", "schedule": 300.0, "options": {"expires": 300}},
    "erase": {"task": "mailflow.erase", "schedule": 60.0, "options": {"expires": 60}},
    "prune": {"task": "queue.prune", "schedule": 3600.0, "options": {"expires": 3600}},
}
CELERY_BEAT_SCHEDULE_FILENAME = str(MAIL_DATA_DIR / "celerybeat-schedule")

# --- SMTP in ---------------------------------------------------------------------------------------------------------
SMTP_HOST = env.text("SMTP_HOST", _loopback_or_all)
SMTP_PORT = env.port("SMTP_PORT", 2525)
SMTPS_PORT = env.port("SMTPS_PORT", 2465)
SUBMISSION_PORT = env.port("SUBMISSION_PORT", 0)
ODMR_PORT = env.port("ODMR_PORT", 2366)
ODMRS_PORT = env.port("ODMRS_PORT", 0)
ODMR_PORT_IS_WISHED = bool(env.text("ODMR_PORT"))  # else the listener goes without it where it is taken
SMTP_METRICS_PORT = env.port("SMTP_METRICS_PORT", 8081)
SMTP_HOSTNAME = env.host_name("SMTP_HOSTNAME", "localhost")
SMTP_ACCEPTS_MAIL = env.boolean("SMTP_ACCEPTS_MAIL", True)
SMTP_MAX_CONNECTIONS = env.integer("SMTP_MAX_CONNECTIONS", 100, low=1, high=100_000)
SMTP_MAX_CONNECTIONS_PER_ADDRESS = env.integer("SMTP_MAX_CONNECTIONS_PER_ADDRESS", 50, low=0, high=100_000)
SMTP_MAX_MESSAGE_SIZE = env.integer("SMTP_MAX_MESSAGE_SIZE", 52428800, low=65536, high=2**31)
SMTP_MAX_RECIPIENTS = env.integer("SMTP_MAX_RECIPIENTS", 1000, low=100, high=100_000)
SMTP_TIMEOUT = env.seconds(("SMTP_TIMEOUT_SECONDS", "SMTP_TIMEOUT"), 300, low=0.1, high=86400)
SMTP_IDLE_TIMEOUT = env.seconds("SMTP_IDLE_TIMEOUT", 0, low=0.1, high=86400)
SMTP_ENVELOPE_TIMEOUT = env.seconds("SMTP_ENVELOPE_TIMEOUT", 1800, low=300, high=86400)
SMTP_DATA_TIMEOUT = env.seconds("SMTP_DATA_TIMEOUT", 3600, low=1, high=86400)
SMTP_MIN_DATA_RATE = env.integer("SMTP_MIN_DATA_RATE", 1024, low=0, high=10**9)
SMTP_DRAIN_SECONDS = env.seconds("SMTP_DRAIN_SECONDS", 4, low=0, high=600)
SMTP_TARPIT_SECONDS = env.seconds("SMTP_TARPIT_SECONDS", 1, low=0, high=60)
SMTP_BARE_LINE_ENDS = env.choice("SMTP_BARE_LINE_ENDS", "refuse", ["refuse", "normalise"])
SMTP_PROXY_NETWORKS = env.networks("SMTP_PROXY_NETWORKS", [])
SMTP_ENABLE_AUTH = env.boolean("SMTP_ENABLE_AUTH", True)
SMTP_AUTH_REQUIRE_TLS = env.boolean("SMTP_AUTH_REQUIRE_TLS", True)
SMTP_ENABLE_TLS = env.boolean("SMTP_ENABLE_TLS", DEMO)
SMTP_TLS_CERT = env.text("SMTP_TLS_CERT", str(MAIL_DATA_DIR / "tls" / "cert.pem") if DEMO else "")
SMTP_TLS_KEY = env.text("SMTP_TLS_KEY", str(MAIL_DATA_DIR / "tls" / "key.pem") if DEMO else "")
if SMTP_ENABLE_TLS and not (SMTP_TLS_CERT and SMTP_TLS_KEY):
    raise SettingError("SMTP_TLS_CERT", None, "paths in SMTP_TLS_CERT and SMTP_TLS_KEY while SMTP_ENABLE_TLS is true")
SPOOL_PROCESS = env.boolean("SPOOL_PROCESS", True)
SMTP_TRUSTED_NETWORKS = env.networks("SMTP_TRUSTED_NETWORKS", [])
SMTP_FROM_ADDRESS = env.text("SMTP_FROM_ADDRESS", "noreply@example.com" if DEMO else "")

# --- rate limits -----------------------------------------------------------------------------------------------------
# For a client's address, a minute or an hour; 0 switches one off (mailflow/limits/rules.py).
SMTP_RATE_LIMIT_EXEMPT = env.networks("SMTP_RATE_LIMIT_EXEMPT", ["127.0.0.0/8", "::1"])
SMTP_RATE_LIMIT_CONNECTIONS = env.integer("SMTP_RATE_LIMIT_CONNECTIONS", 10, low=0, high=10**9)
SMTP_RATE_LIMIT_COMMANDS = env.integer("SMTP_RATE_LIMIT_COMMANDS", 100, low=0, high=10**9)
SMTP_RATE_LIMIT_AUTH_FAILURES = env.integer("SMTP_RATE_LIMIT_AUTH_FAILURES", 5, low=0, high=10**9)
SMTP_RATE_LIMIT_MESSAGES = env.integer("SMTP_RATE_LIMIT_MESSAGES", 20, low=0, high=10**9)
SMTP_RATE_LIMIT_NETWORK_FACTOR = env.integer("SMTP_RATE_LIMIT_NETWORK_FACTOR", 10, low=0, high=1000)
SMTP_RATE_LIMIT_USER_NAME_AUTH_FAILURES = env.integer("SMTP_RATE_LIMIT_USER_NAME_AUTH_FAILURES", 20, low=0, high=10**9)
SMTP_RATE_LIMIT_SENDER_MESSAGES = env.integer("SMTP_RATE_LIMIT_SENDER_MESSAGES", 500, low=0, high=10**9)
SMTP_RATE_LIMIT_ACCOUNT_MESSAGES = env.integer("SMTP_RATE_LIMIT_ACCOUNT_MESSAGES", 500, low=0, high=10**9)
SMTP_RATE_LIMIT_ACCOUNT_COMMANDS = env.integer("SMTP_RATE_LIMIT_ACCOUNT_COMMANDS", 1000, low=0, high=10**9)

HEALTH_MAX_REFUSED_CONNECTIONS = env.integer("HEALTH_MAX_REFUSED_CONNECTIONS", 1000, low=0, high=10**6)
API_RATE_LIMIT_KEY_REQUESTS = env.integer("API_RATE_LIMIT_KEY_REQUESTS", 600, low=0, high=10**9)
API_RATE_LIMIT_USER_REQUESTS = env.integer("API_RATE_LIMIT_USER_REQUESTS", 600, low=0, high=10**9)
API_RATE_LIMIT_ADDRESS_REQUESTS = env.integer("API_RATE_LIMIT_ADDRESS_REQUESTS", 120, low=0, high=10**9)

# --- imap: what `config` tells of it, until there is one --------------------------------------------------------------
IMAP_MAX_WORKERS = env.integer("IMAP_MAX_WORKERS", 4, low=1, high=1000)
IMAP_POOL_SIZE = env.integer("IMAP_POOL_SIZE", 10, low=1, high=100)
IMAP_TIMEOUT = env.seconds("IMAP_TIMEOUT", 30, low=0.1, high=86400)
IMAP_MAX_CONNECTIONS = env.integer("IMAP_MAX_CONNECTIONS", 50, low=1, high=100_000)
IMAP_IDLE_TIMEOUT = env.seconds("IMAP_IDLE_TIMEOUT", 300, low=0.1, high=86400)

# --- storage ---------------------------------------------------------------------------------------------------------
SMTP_STORAGE_TYPE = env.choice("SMTP_STORAGE_TYPE", "maildir", ["maildir", "database"])
SMTP_STORAGE_PATH = Path(env.text("SMTP_STORAGE_PATH", str(MAIL_DATA_DIR / "mail"))).resolve()

# --- out -------------------------------------------------------------------------------------------------------------
HANDOFF = "queue.handoff.QueueHandoff"
METRICS_COLLECTOR = "mailproj.metrics.SystemCollector"
DELIVERY_MODE = env.choice("DELIVERY_MODE", "sandbox" if DEMO else "live", ["live", "sandbox"])
RELAY_HOST = env.text("RELAY_HOST")
RELAY_PORT = env.port("RELAY_PORT", 587)
RELAY_USERNAME = env.text("RELAY_USERNAME")
RELAY_PASSWORD = env.text("RELAY_PASSWORD")
RELAY_TLS = env.choice(
    ("RELAY_TLS", "RELAY_STARTTLS"), "opportunistic", ["required", "implicit", "opportunistic", "never"]
)
SMTP_OUT_PORT = env.port("SMTP_OUT_PORT", 25)
SMTP_OWN_ADDRESSES = env.networks("SMTP_OWN_ADDRESSES", [])
DNS_SERVERS = env.nameservers("DNS_SERVERS")
TLS_REPORT_FROM = env.address("TLS_REPORT_FROM", "")
DNS_VALIDATES = env.boolean("DNS_VALIDATES", False)
DOMAIN_CHECK_INTERVAL = env.seconds("DOMAIN_CHECK_INTERVAL", 86400, low=300, high=30 * 86400)
OUTBOUND_ALLOWED_NETWORKS = env.networks("OUTBOUND_ALLOWED_NETWORKS", [])
OUTBOUND_TIMEOUT = env.seconds("OUTBOUND_TIMEOUT", 300, low=0.1, high=86400)
OUTBOUND_CONNECT_TIMEOUT = env.seconds("OUTBOUND_CONNECT_TIMEOUT", 30, low=0.1, high=3600)
OUTBOUND_TLS_TIMEOUT = env.seconds("OUTBOUND_TLS_TIMEOUT", 60, low=0.1, high=86400)
# RFC 5321 §4.5.3.2, step by step.
OUTBOUND_GREETING_TIMEOUT = env.seconds("OUTBOUND_GREETING_TIMEOUT", 300, low=0.1, high=86400)
OUTBOUND_COMMAND_TIMEOUT = env.seconds("OUTBOUND_COMMAND_TIMEOUT", 300, low=0.1, high=86400)
OUTBOUND_MAIL_TIMEOUT = env.seconds("OUTBOUND_MAIL_TIMEOUT", 300, low=0.1, high=86400)
OUTBOUND_RCPT_TIMEOUT = env.seconds("OUTBOUND_RCPT_TIMEOUT", 300, low=0.1, high=86400)
OUTBOUND_DATA_TIMEOUT = env.seconds("OUTBOUND_DATA_TIMEOUT", 120, low=0.1, high=86400)
OUTBOUND_BLOCK_TIMEOUT = env.seconds("OUTBOUND_BLOCK_TIMEOUT", 180, low=0.1, high=86400)
OUTBOUND_END_TIMEOUT = env.seconds("OUTBOUND_END_TIMEOUT", 600, low=0.1, high=86400)
OUTBOUND_ENVELOPE_TIMEOUT = env.seconds(
    "OUTBOUND_ENVELOPE_TIMEOUT",
    # A longer wait for one command must not be cut off by what all of them have together.
    max(900, OUTBOUND_MAIL_TIMEOUT + OUTBOUND_RCPT_TIMEOUT + OUTBOUND_DATA_TIMEOUT),
    low=0.1,
    high=3 * 86400,
)
OUTBOUND_SEARCH_TIMEOUT = env.seconds("OUTBOUND_SEARCH_TIMEOUT", 300, low=0.1, high=86400)
SMTP_MAX_WORKERS = env.integer("SMTP_MAX_WORKERS", 50, low=1, high=1000)
SMTP_POOL_SIZE = env.integer("SMTP_POOL_SIZE", 10, low=1, high=100)
# With QUEUE_MAX_ATTEMPTS at 5 the last attempt comes after four days (RFC 5321 §4.5.4.1).
RETRY_SCHEDULE = env.durations("RETRY_SCHEDULE", "5m,1h,1d,3d", low=0.1)
QUEUE_MAX_ATTEMPTS = env.integer("QUEUE_MAX_ATTEMPTS", 5, low=1, high=100)
QUEUE_MAX_AGE_SECONDS = env.seconds("QUEUE_MAX_AGE", 5 * 86400, low=1)
QUEUE_DELAY_DSN_AFTER_SECONDS = env.seconds("QUEUE_DELAY_DSN_AFTER", 4 * 3600, low=0)
QUEUE_LEASE_SECONDS = env.seconds("QUEUE_LEASE_SECONDS", 60, low=2, high=86400)
QUEUE_KEEP_FAILED_DAYS = env.integer("QUEUE_KEEP_FAILED_DAYS", 7, low=0, high=3650)
MESSAGE_KEEP_DAYS = env.integer("MESSAGE_KEEP_DAYS", 30, low=1, high=36500)
TRAIL_KEEP_DAYS = env.integer("TRAIL_KEEP_DAYS", 90, low=1, high=36500)

# --- webhooks ---------------------------------------------------------------------------------------------------------
WEBHOOK_ALLOWED_NETWORKS = env.networks("WEBHOOK_ALLOWED_NETWORKS", [])
SMTP_WEBHOOK_URL = env.webhook_url("SMTP_WEBHOOK_URL", WEBHOOK_ALLOWED_NETWORKS)
SMTP_WEBHOOK_EVENTS = env.choices("SMTP_WEBHOOK_EVENTS", EVENTS)
SMTP_WEBHOOK_SECRET = env.webhook_secret("SMTP_WEBHOOK_SECRET")
WEBHOOK_TIMEOUT = env.seconds("WEBHOOK_TIMEOUT", 15, low=0.1, high=45)
# With the first attempt at once, the last comes after about a day.
WEBHOOK_RETRY_SCHEDULE = env.durations("WEBHOOK_RETRY_SCHEDULE", "5s,5m,30m,2h,5h,8h,8h", low=0.1)
WEBHOOK_DISABLE_AFTER_SECONDS = env.seconds("WEBHOOK_DISABLE_AFTER", 5 * 86400, low=0)
WEBHOOK_KEEP_DAYS = env.integer("WEBHOOK_KEEP_DAYS", 7, low=2, high=3650)

# --- billing ----------------------------------------------------------------------------------------------------------
STRIPE_API_KEY = env.text("STRIPE_API_KEY")
STRIPE_WEBHOOK_SECRET = env.text("STRIPE_WEBHOOK_SECRET")
STRIPE_API_BASE = env.text("STRIPE_API_BASE")
STRIPE_SUCCESS_URL = env.text("STRIPE_SUCCESS_URL", "http://localhost:8000/billing/success")
STRIPE_CANCEL_URL = env.text("STRIPE_CANCEL_URL", "http://localhost:8000/billing/cancel")
STRIPE_PORTAL_RETURN_URL = env.text("STRIPE_PORTAL_RETURN_URL", "http://localhost:8000/billing")

# --- what comes back (docs/adr/0015) ----------------------------------------------------------------------------------
VERP = env.choice("VERP", "http", ["off", "http", "all"])
SUPPRESSION_HARD_KEEP_SECONDS = env.seconds("SUPPRESSION_HARD_KEEP", 90 * 86400, low=0)
SUPPRESSION_SOFT_KEEP_SECONDS = env.seconds("SUPPRESSION_SOFT_KEEP", 7 * 86400, low=0)
SUPPRESSION_SOFT_BOUNCES = env.integer("SUPPRESSION_SOFT_BOUNCES", 5, low=0, high=1000)
SUPPRESSION_SOFT_WINDOW_SECONDS = env.seconds("SUPPRESSION_SOFT_WINDOW", 14 * 86400, low=60)
SUPPRESSION_IMPORT_SIZE = env.integer("SUPPRESSION_IMPORT_SIZE", 10485760, low=1024, high=2**28)
POSTMASTER_ADDRESS = env.address("POSTMASTER_ADDRESS", "")
DOUBLE_BOUNCE_INTERVAL_SECONDS = env.seconds("DOUBLE_BOUNCE_INTERVAL", 3600, low=0)

# --- logs and metrics ------------------------------------------------------------------------------------------------
LOG_LEVEL = env.choice(("LOG_LEVEL", "SMTP_LOG_LEVEL"), "info", ["debug", "info", "warn", "warning", "error"])
LOG_JSON = env.boolean("LOG_JSON", True)
LOGGING = logging_config(LOG_LEVEL, json_lines=LOG_JSON)
LOGGING_CONFIG = "logging.config.dictConfig"
PROMETHEUS_EXPORT_MIGRATIONS = False
