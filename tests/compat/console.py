"""Logs in at a guest's serial console through `infall vm console --attach`, on a terminal of its own."""

import json
import os
import pty
import select
import sys
import time

NAME, PROGRAM, KEY, ENDPOINT, DATA = sys.argv[1:]
SECONDS = 120


def main():
    key = json.load(open(KEY))["key"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {
            "INFALL_DATA": DATA,
            "INFALL_ENDPOINT": ENDPOINT,
            "INFALL_ACCESS_KEY": key["id"],
            "INFALL_SECRET_KEY": key["secret_key"],
        }
        os.execv(PROGRAM, [PROGRAM, "vm", "console", NAME, "--attach"])
    shown = b""

    def see(wanted, again=None):
        """Reads until `wanted` shows up; types `again` every five seconds until then."""
        nonlocal shown
        until, press = time.monotonic() + SECONDS, time.monotonic()
        while wanted not in shown:
            if time.monotonic() > until:
                sys.exit(f"error: the console never said {wanted!r}; last {shown[-300:]!r}")
            if again and time.monotonic() > press:
                os.write(terminal, again)
                press = time.monotonic() + 5
            if select.select([terminal], [], [], 0.5)[0]:
                shown += os.read(terminal, 4096)
        shown = shown[shown.index(wanted) + len(wanted) :]

    see(b"leave with Ctrl-]")
    see(b"login: ", again=b"\r")
    os.write(terminal, b"debian\r")
    see(b"Password: ")
    os.write(terminal, b"knock-knock\r")
    see(b"$ ")
    os.write(terminal, b"echo T''YPED-$((6*7)) $(tty); exit\r")
    see(b"TYPED-42 /dev/ttyS0")
    see(b"login: ")
    os.write(terminal, b"\x1d")
    _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


main()
