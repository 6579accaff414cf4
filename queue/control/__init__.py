"""What people do to the queue, as functions on its entries (contract §1.1, §3)."""

from queue.control.batches import LEFT_WORDS, Left, Tally, apply, batch_of, carry_out, remove, retry_now, take_back
from queue.control.marks import mark_of, marked, workers_of
from queue.control.orders import Action, InvalidOrder, Order, parse_order
from queue.control.scheduled import NotScheduled, cancel, parse_time_to_send, reschedule

__all__ = [
    "LEFT_WORDS", "Action", "InvalidOrder", "Left", "NotScheduled", "Order", "Tally", "apply", "batch_of", "cancel",
    "carry_out", "mark_of", "marked", "parse_order", "parse_time_to_send", "remove", "reschedule", "retry_now",
    "take_back", "workers_of",
]  # fmt: skip
