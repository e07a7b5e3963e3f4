"""Steps 3 to 9: the main job, through the public commands of `infall` and stock tools only."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import guest
import people
import screen
from make import CACHE, ROOT, TOOLS
from owned import Failed, end, libvirt, output, start, wait_until

RECORDS = 500
KILL_AFTER_RECORDS = 120


class Demo:
    """What the steps hand on to each other. `owned` ends at the end whatever was started."""

    def __init__(self, folder, binary, owned):
        self.folder = folder
        self.binary = binary
        self.owned = owned
        self.data = folder / "data"
        self.server = None
        self.environment = dict(
            os.environ,
            PATH=f"{TOOLS / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
            INFALL_DATA=str(self.data),
            INFALL_LISTEN=f"127.0.0.1:{free_port(9000)}",
            # Nothing of the caller's own configuration reaches into the demo.
            INFALL_CONFIG=str(folder / "config.toml"),
            AWS_CONFIG_FILE=str(folder / "aws-config"),
            AWS_SHARED_CREDENTIALS_FILE=str(folder / "aws-credentials"),
            AWS_EC2_METADATA_DISABLED="true",
        )
        for name in ("INFALL_ENDPOINT", "AWS_PROFILE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            self.environment.pop(name, None)
        (folder / "config.toml").touch()
        self.baseline = {}
        self.known = ""
        self.uri = ""
        # Unlike any domain that the machine's libvirt may have already.
        self.machine = f"demo-{os.getpid()}"
        self.console = None
        self.people = None
        self.snapshot_id = ""

    # ---- commands

    def infall(self, *words, seconds=120):
        """Runs a command of the program."""
        return output([self.binary, *words], env=self.environment, timeout=seconds)

    def json(self, *words, seconds=120):
        """Runs a command of the program with --json."""
        return json.loads(self.infall(*words, "--json", seconds=seconds))

    def aws(self, *words):
        """Runs the stock aws client."""
        return output(["aws", *words], env=self.environment, timeout=300)

    def stats(self):
        """The store's own figures."""
        return self.json("store", "status")["stats"]

    def start_server(self):
        """`infall serve`, until it answers."""
        self.server = start([self.binary, "serve"], self.folder / "server.log", env=self.environment)

        def ready():
            with contextlib.suppress(Failed):
                return self.infall("status")

        wait_until(ready, 60, "infall serve", alive=self.server)

    # ---- steps

    def serve(self):
        """3: the server on an empty data directory, and a libvirt for it."""
        with screen.step(3, "infall serve on an empty data directory") as step:
            self.uri = self.owned.enter_context(libvirt(self.folder / "libvirt", self.folder / "libvirtd.log"))
            self.environment["INFALL_VM_URI"] = self.uri
            # Registered once, before any guest: the end removes guests through the server, then ends it.
            self.owned.callback(lambda: end(self.server))
            self.start_server()
            # `infall env` prints shell lines: export NAME=VALUE.
            for name, value in re.findall(r"(?m)^export (\w+)=['\"]?([^'\"\n]*)['\"]?;?$", self.infall("env")):
                self.environment[name] = value
            whose = "our own" if (self.folder / "libvirt").exists() else "the machine's"
            step.text = f"http://{self.environment['INFALL_LISTEN']} · NBD unix socket · libvirtd {whose}"

    def upload(self):
        """4: the disk and its qcow2, by the stock client; one in parts, one in a single PUT."""
        with screen.step(4, "making the guest's disk") as step:
            disk = CACHE / "demo/guest"
            output([ROOT / "demo/guest/build", disk], env=self.environment, timeout=120)
            self.known = (disk / "known.sha256").read_text().strip()
            raw, qcow2 = disk / "tiny.raw", disk / "tiny.qcow2"
            self.infall("bucket", "create", "images")
            step.progress("aws s3 cp tiny.raw, aws s3api put-object tiny.qcow2")
            before = time.monotonic()
            self.aws("s3", "cp", "--no-progress", raw, "s3://images/tiny.raw")
            self.aws("s3api", "put-object", "--bucket", "images", "--key", "tiny.qcow2", "--body", qcow2)
            seconds = time.monotonic() - before
            etags = {
                key: json.loads(self.aws("s3api", "head-object", "--bucket", "images", "--key", key))["ETag"].strip('"')
                for key in ("tiny.raw", "tiny.qcow2")
            }
            if "-" not in etags["tiny.raw"] or "-" in etags["tiny.qcow2"]:
                raise Failed(f"one upload should be multipart and one not, the ETags are {etags}")
            total = raw.stat().st_size + qcow2.stat().st_size
            step.text = (
                f"tiny.raw {screen.mib(raw.stat().st_size)} in {etags['tiny.raw'].split('-')[1]} parts, "
                f"tiny.qcow2 {screen.mib(qcow2.stat().st_size)} in one (aws)"
            )
            step.figure = f"{total / seconds / 1e6:.0f} MB/s"
            # The mark for step 9, taken as there: after a collection.
            self.infall("store", "collect", "--wait")
            self.baseline = self.stats()

    def image(self):
        """5: both are one image, a clone costs nothing; who was not given it gets nothing of it."""
        with screen.step(5, "infall image add, infall volume create --image") as step:
            before = self.stats()
            images = [
                self.json("image", "add", f"s3://images/tiny.{form}", "--name", f"tiny-{form}")["image"]["id"]
                for form in ("raw", "qcow2")
            ]
            if images[0] != images[1]:
                raise Failed(f"the raw disk is {images[0]} and its qcow2 {images[1]}; they show the same bytes")
            cloning = time.monotonic()
            self.infall("volume", "create", "root1", "--image", "tiny-qcow2")
            milliseconds = (time.monotonic() - cloning) * 1000
            after = self.stats()
            written = sum(after[name] - before[name] for name in ("written_client_bytes", "written_copy_bytes"))
            if written:
                raise Failed(f"image add and clone wrote {written} bytes of payload; 0 were promised")
            step.progress("two users: what each may, and that the rest is refused")
            self.people = people.People(self)
            self.people.at_data()
            name = images[0]
            step.text = f"{name[:8]}…{name[-2:]} (raw = qcow2) → root1, payload copied: {written} B"
            step.figure = f"{milliseconds:.0f} ms"
            step.note(self.people.told())

    def boot(self):
        """6: libvirt boots the clone over NBD; the guest reads its seed and checks the known file."""
        with screen.step(6, "asking a real boot whether KVM works here") as step:
            # The verdict is the server's, and kept: the guest's boot is not charged with it.
            why = next(found for found in self.findings() if found["what"] == "KVM")["found"]
            data = guest.user_data(
                self.folder / "ci.yml", runcmd=["known", f"records write {RECORDS}", "records verify"]
            )
            step.progress("infall vm run --root-volume root1")
            began = time.monotonic()
            self.console = self.run_machine(self.machine, "--root-volume", "root1", "--user-data", data)
            self.console.wait_for("^GUEST-UP", 90, "the guest's kernel and init")
            step.figure = f"up {time.monotonic() - began:.1f} s"
            self.check_known(self.console)
            accelerator = self.json("vm", "show", self.machine)["accelerator"].upper()
            step.text = f"QEMU/{accelerator}, disk over NBD, NoCloud seed read, known file right"
            step.note(f"KVM: {why.split(';')[0]}")

    def findings(self):
        """What `infall doctor` sees; that something else is lacking here does not matter."""
        doctor = [self.binary, "doctor", "--json"]
        done = subprocess.run(doctor, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        return json.loads(done.stdout)

    def run_machine(self, name, *words):
        """`infall vm run`; its console. It ends with the demo whatever happens."""
        self.owned.callback(self.remove_machine, name)
        instance = self.json("vm", "run", name, "--memory", "192", "--network", "none", *words)
        return guest.Console(instance["console_log"])

    def remove_machine(self, name):
        """For the end, whether or not it is there still, and the server to ask."""
        with contextlib.suppress(Failed):
            self.infall("vm", "rm", name, "--disks")
        for verb in ("destroy", "undefine"):
            subprocess.run(["virsh", "-c", self.uri, verb, name], capture_output=True, timeout=60, check=False)

    def check_known(self, console):
        """The file of known content, as the guest read it."""
        found = console.wait_for(r"^KNOWN-OK ([0-9a-f]{64})$", 60, "the known file").group(1)
        if found != self.known:
            raise Failed(f"the guest read /data/known.bin as {found}, made was {self.known}")

    def kill(self):
        """7: SIGKILL between two records; the guest waits, goes on, and nothing is lost."""
        with screen.step(7, "the guest writes records, each synced before it is announced") as step:
            console = self.console
            wait_until(lambda: len(console.records()) >= KILL_AFTER_RECORDS, 60, f"{KILL_AFTER_RECORDS} records")
            self.server.send_signal(signal.SIGKILL)
            self.server.wait()
            killed = time.monotonic()
            time.sleep(1)
            at = console.records()[-1][0]
            step.progress(f"killed at record {at}; the guest waits for its disk")
            self.start_server()
            wait_until(lambda: console.records()[-1][0] > at, 60, f"the guest going on behind record {at}")
            # By our clock: the guest's own may have stood still.
            paused = time.monotonic() - killed
            console.wait_for(rf"^RECORDS-WRITTEN {RECORDS}$", 120, "the guest going on after the kill")
            announced = [number for number, _ in console.records()]
            if announced != list(range(1, RECORDS + 1)):
                raise Failed("the console does not show each record announced once, in order")
            last = console.verified(RECORDS, 60, "records after the kill")
            step.text = f"guest paused {paused:.1f} s at {at}, went on; 1…{last}: 0 missing, 0 doubled"

    def snapshot(self):
        """8: the running disk as an object, the object on stock QEMU; then the disk as a file."""
        with screen.step(8, "infall volume snapshot root1 --as s3://snaps/root1-a.raw") as step:
            self.infall("bucket", "create", "snaps")
            before = self.stats()
            snapshot = self.json("volume", "snapshot", "root1", "--as", "s3://snaps/root1-a.raw")
            self.snapshot_id = snapshot["id"]
            copied = self.stats()["written_copy_bytes"] - before["written_copy_bytes"]
            if copied:
                raise Failed(f"the snapshot copied {copied} bytes; none were promised")
            step.progress("aws s3 cp s3://snaps/root1-a.raw, and the same over NBD")
            file = self.folder / "root1-a.raw"
            self.aws("s3", "cp", "--no-progress", "s3://snaps/root1-a.raw", file)
            by_s3 = sha256_of_file(file)
            by_nbd = sha256_of_nbd(self.infall("volume", "url", self.snapshot_id).strip())
            if by_s3 != by_nbd:
                raise Failed(f"sha256 by S3 {by_s3}, over NBD {by_nbd}")
            step.progress("the download on stock QEMU, without Infall")
            with guest.stock_qemu(file, self.folder / "console-stock.log", self.folder / "qemu.log") as console:
                self.check_known(console)
                console.verified(RECORDS, 90, "records on stock QEMU")
            step.progress("the two users at the guest")
            self.people.at_machine(self.machine)
            self.boot_from_file(step)
            step.text = f"→ s3://snaps/root1-a.raw; stock QEMU boots it; S3 = NBD = {by_s3[:8]}…"
            step.note(f"root1 also boots as a file under `infall mount`, with the same records")
            step.note(self.people.told() + "; of the journal:")
            for row in self.people.rows():
                step.note(row)

    def boot_from_file(self, step):
        """The volume once more, as a file under `infall mount`."""
        step.progress("infall mount, infall vm run --boot-file …/volumes/root1.raw")
        self.infall("vm", "stop", self.machine)
        mount = self.folder / "mount"
        mount.mkdir()
        self.owned.callback(self.unmount, mount)
        # Under a root's libvirt QEMU is another user; without root, FUSE would refuse the option.
        self.infall("mount", mount, "--detach", *(["--allow-other"] if os.geteuid() == 0 else []))
        data = guest.user_data(self.folder / "file.yml", bootcmd=["known", "records verify"])
        console = self.run_machine(f"{self.machine}-file", "--boot-file", mount / "volumes/root1.raw", "--user-data", data)
        self.check_known(console)
        console.verified(RECORDS, 90, "records on the file below the mount")
        self.infall("vm", "rm", f"{self.machine}-file", "--disks")
        self.infall("umount", mount)

    def unmount(self, mount):
        """For the end: quiet where it has been taken away already."""
        with contextlib.suppress(Failed):
            self.infall("umount", mount)

    def clean(self):
        """9: everything since the upload goes, and its bytes with it."""
        with screen.step(9, "removing VM, volume, snapshot, object, images, users") as step:
            self.infall("vm", "rm", self.machine)
            self.infall("snapshot", "rm", self.snapshot_id)
            self.aws("s3", "rm", "s3://snaps/root1-a.raw")
            self.infall("bucket", "rm", "snaps")
            self.infall("volume", "rm", "root1")
            for name in ("tiny-raw", "tiny-qcow2"):
                self.infall("image", "rm", name)
            self.people.leave()
            self.infall("store", "collect", "--wait", seconds=120)
            before, after = self.baseline["physical_bytes"], self.stats()["physical_bytes"]
            more = after - before
            if abs(more) > max(before // 100, (1 << 20) + self.stats()["index_bytes"]):
                raise Failed(
                    f"{before} bytes on the disk after the upload, {after} after everything since was removed",
                    "see `infall store tree` and `infall check` on the data folder",
                )
            self.infall("store", "check")
            step.text = f"all removed; store back to {screen.mib(after)} ({more / before:+.1%}), check sound"


def free_port(preferred):
    """The port if nobody listens there, else any."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise Failed("no free port on 127.0.0.1")


def sha256_of_file(path):
    """Its digest."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_nbd(url):
    """The digest of an export, read by nbdcopy."""
    digest = hashlib.sha256()
    with subprocess.Popen(["nbdcopy", url, "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as copy:
        while block := copy.stdout.read(1 << 20):
            digest.update(block)
        said = copy.stderr.read().decode(errors="replace").strip()
    if copy.returncode != 0:
        raise Failed(f"nbdcopy {url}: {said}")
    return digest.hexdigest()
