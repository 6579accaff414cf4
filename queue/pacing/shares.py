"""How workers share the connections that a destination takes (pure)."""

from __future__ import annotations

from collections.abc import Mapping


def shares(capacity: int, demands: Mapping[str, int]) -> dict[str, int]:
    """Divide the connections: nobody who wants more gets less than another, what is left over is spread evenly.

    All are handed out while anybody wants any. Names decide who gets the odd one, so that all workers find the same.
    """
    result = dict.fromkeys(demands, 0)
    left = max(0, capacity)
    wanting = sorted(worker for worker, demand in demands.items() if demand > 0)
    hungry = wanting
    while left and hungry:
        each = max(1, left // len(hungry))
        for worker in hungry:
            given = min(each, demands[worker] - result[worker], left)
            result[worker] += given
            left -= given
        hungry = [worker for worker in hungry if result[worker] < demands[worker]]
    for number, worker in enumerate(wanting):  # beyond what they asked for: they need not ask again for more
        result[worker] += left // len(wanting) + (number < left % len(wanting))
    return result


def new_slots(capacity: int, *, worker: str, in_use: int, demands: Mapping[str, int], held: Mapping[str, int]) -> int:
    """Return what `worker` may hold now: its share, no more than the others (`held`) leave, no less than it uses.

    So the sum over all workers never grows beyond the capacity, and falls to it as deliveries end.
    """
    free = capacity - sum(slots for name, slots in held.items() if name != worker)
    return max(in_use, min(shares(capacity, demands).get(worker, 0), max(0, free)))
