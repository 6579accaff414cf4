"""What a webhook may tell of (R4's list); pure."""

from __future__ import annotations

MESSAGE_RECEIVED = "message.received"
MESSAGE_SENT = "message.sent"
MESSAGE_FAILED = "message.failed"
SPAM_DETECTED = "spam.detected"
VIRUS_DETECTED = "virus.detected"
USER_CREATED = "user.created"
AUTH_FAILED = "auth.failed"

TITLES = {
    MESSAGE_RECEIVED: "Message received",
    MESSAGE_SENT: "Message delivered",
    MESSAGE_FAILED: "Delivery failed",
    SPAM_DETECTED: "Spam detected",
    VIRUS_DETECTED: "Virus detected",
    USER_CREATED: "User created",
    AUTH_FAILED: "Authentication failed",
}
EVENTS = tuple(TITLES)
CHOICES = list(TITLES.items())
