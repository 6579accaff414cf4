"""The certificate of the simulated hosts, made anew in each process and kept in memory, and contexts that know it."""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mailflow.certificates import ensure_self_signed
from queue.simulation.personas import DOMAIN


@dataclass(frozen=True, slots=True)
class Contexts:
    """`server`: the hosts' side. `client` trusts them and nobody else."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@cache
def contexts() -> Contexts:
    """Make key and certificate; the file that OpenSSL wants to read them from is gone when this returns."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
        ensure_self_signed(certificate, key, f"*.{DOMAIN}", dt.datetime.now(dt.UTC))
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        return Contexts(server, ssl.create_default_context(cadata=certificate.read_text()))
