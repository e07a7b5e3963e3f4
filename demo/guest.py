"""The guest as seen from outside: its seed, its console, and a boot on stock QEMU without Infall."""

import contextlib
import re
from pathlib import Path

from owned import Failed, end, output, start, wait_until


def user_data(path, bootcmd=(), runcmd=()):
    """Writes cloud-config that the small guest's /etc/rc understands."""
    lines = ["#cloud-config"]
    for key, commands in (("bootcmd", bootcmd), ("runcmd", runcmd)):
        if commands:
            lines += [f"{key}:"] + [f"  - {command}" for command in commands]
    path.write_text("\n".join(lines) + "\n")
    return path


class Console:
    """A serial console that grows in a file."""

    def __init__(self, path, alive=None):
        self.path = Path(path)
        self.alive = alive

    def text(self):
        """What the guest has said; whole lines only."""
        if not self.path.exists():
            return ""
        said = self.path.read_bytes().decode(errors="replace").replace("\r", "")
        return said[: said.rfind("\n") + 1]

    def wait_for(self, pattern, seconds, what):
        """The first match of a line's beginning; a line GUEST-FAILED or RECORD-FAILED ends the wait."""

        def probe():
            text = self.text()
            if found := re.search(f"(?m)(?:{pattern})", text):
                return found
            if wrong := re.search(r"(?m)(GUEST-FAILED|RECORD-FAILED|RECORDS-DAMAGED|KNOWN-BAD).*$", text):
                raise Failed(f"{what}: the guest said {wrong.group(0)!r}")
            return None

        return wait_until(probe, seconds, what, self.alive)

    def records(self):
        """The announced records: (number, guest's uptime in seconds)."""
        return [(int(n), float(at)) for n, at in re.findall(r"(?m)^RECORD (\d+) ([\d.]+)$", self.text())]

    def verified(self, at_least, seconds, what):
        """Waits for the guest's count of what is on its disk; all announced records must be there once."""
        found = self.wait_for(r"^RECORDS last (\d+) missing (\d+) doubled (\d+) bad (\d+)$", seconds, what)
        last, missing, doubled, bad = map(int, found.groups())
        if missing or doubled or bad or last < at_least:
            raise Failed(f"{what}: {found.group(0)}, and the console had announced {at_least} records")
        return last


@contextlib.contextmanager
def stock_qemu(disk, console_path, log):
    """Boots a raw disk file under plain QEMU, no libvirt and no Infall; the console while it runs."""
    machine = start(
        ["qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "192", "-display", "none", "-nodefaults", "-no-reboot"]
        + ["-drive", f"file={disk},if=virtio,format=raw", "-serial", f"file:{console_path}"],
        log,
    )
    try:
        yield Console(console_path, machine)
    finally:
        end(machine)
