"""Argon2id with the parameters of the contract's reference R4: t=3, m=64 MiB, p=4, 16 octets of salt, 32 of hash."""

from __future__ import annotations

from django.contrib.auth.hashers import Argon2PasswordHasher


class Argon2idHasher(Argon2PasswordHasher):
    time_cost = 3
    memory_cost = 65536
    parallelism = 4
