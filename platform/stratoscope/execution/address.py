"""The address of a running Ray in RAY_ADDRESS, and a check that it answers. This module does not import Ray."""

import os
import socket
import time
from contextlib import closing

from stratoscope.errors import InputError
from stratoscope.phases import phase

VARIABLE = "RAY_ADDRESS"
LOCAL, AUTO = "local", "auto"
ANSWER_S = 5.0
"""Seconds within which a cluster has to answer an attempt to connect."""
GIVE_UP_S = 60.0
"""Seconds after which no further attempt is made."""
RETRY_S = 1.0
"""Seconds between two attempts."""
ADVICE = "start the cluster, correct the variable, or unset it to run on this machine alone"


def ray_address() -> str:
    """Return the address of the Ray that RAY_ADDRESS names; 'local' if it names none."""
    return os.environ.get(VARIABLE) or LOCAL


def is_local() -> bool:
    """Return whether the work runs on this machine alone, judging by the environment before a connection is made."""
    return ray_address() == LOCAL


def check_address() -> None:
    """Wait until a server answers at RAY_ADDRESS, where it is set. Ray itself would wait for minutes, silently.

    Raises:
        InputError: the address is malformed, or nobody answered within `GIVE_UP_S`.
    """
    address = ray_address()
    if address in (LOCAL, AUTO):
        return
    server = address.removeprefix("ray://").partition("?")[0]
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"{VARIABLE} {address!r} is not host:port, ray://host:port or auto; {ADVICE}")
    start, failures = time.monotonic(), 0
    with phase(
        f"looking for the Ray of {VARIABLE} {address}", status=lambda: "nobody answers" if failures else "", quick=True
    ):
        while not _answers(server):
            failures += 1
            if time.monotonic() - start + ANSWER_S > GIVE_UP_S:
                raise InputError(f"{VARIABLE} {address!r}: nobody answered within {GIVE_UP_S:.0f} s; {ADVICE}")
            time.sleep(RETRY_S)


def _answers(server: str) -> bool:
    """Return whether a gRPC server answers at `host:port`; if Ray uses TLS, whether any server does."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        host, _, port = server.rpartition(":")
        try:
            with closing(socket.create_connection((host, int(port)), timeout=ANSWER_S)):
                return True
        except OSError:
            return False
    import grpc

    # Ray ignores proxies, too.
    with grpc.insecure_channel(server, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
        except grpc.FutureTimeoutError:
            return False
    return True
