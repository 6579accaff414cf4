"""One noun a module; Django finds them here."""

from queue.models.action import QueueAction
from queue.models.attempt import Attempt
from queue.models.destination import Destination, Slots
from queue.models.double_bounce import DoubleBounce
from queue.models.entry import Entry
from queue.models.mta_sts_policy import MtaStsPolicy
from queue.models.sandbox_clock import SandboxClock
from queue.models.smart_host import SmartHost
from queue.models.suppression import SoftBounce, Suppression
from queue.models.tls_figure import TlsFigure
from queue.models.tls_report import TlsReport
from queue.models.warmup import WarmupPlan
from queue.models.worker import Worker

__all__ = [
    "Attempt",
    "Destination",
    "DoubleBounce",
    "Entry",
    "MtaStsPolicy",
    "QueueAction",
    "SandboxClock",
    "Slots",
    "SmartHost",
    "SoftBounce",
    "Suppression",
    "TlsFigure",
    "TlsReport",
    "WarmupPlan",
    "Worker",
]
