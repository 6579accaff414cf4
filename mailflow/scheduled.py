"""How far ahead a message may be scheduled, for whoever lets people say so."""

from __future__ import annotations

import datetime as dt

MAX_AHEAD = dt.timedelta(days=90)
TOO_FAR = f"At most {MAX_AHEAD.days} days ahead."
