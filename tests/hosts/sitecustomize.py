"""Python here finds every name below infall.test on this machine, as a wildcard record in DNS would."""

import socket

ASK = socket.getaddrinfo


def find(host, *rest, **how):
    name = host.decode() if isinstance(host, bytes) else host
    if name and name.lower().endswith("infall.test"):
        host = "127.0.0.1"
    return ASK(host, *rest, **how)


socket.getaddrinfo = find
