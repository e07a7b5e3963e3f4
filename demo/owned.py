"""What the demo starts, and therefore ends: processes by their id, one libvirtd, its domains."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path


class Failed(Exception):
    """A step failed: what was wrong, and what to try next."""

    def __init__(self, what, next_step=""):
        super().__init__(what)
        self.next_step = next_step


def output(command, **options):
    """The command's standard output; its error text becomes the failure."""
    options.setdefault("timeout", 120)
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    except subprocess.TimeoutExpired:
        raise Failed(f"`{shown(command)}` gave no answer within {options['timeout']} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise Failed(f"`{shown(command)}` ended with {done.returncode} and said: " + "\n      ".join(said[-6:]))
    return done.stdout


def shown(command):
    """A command as a person would type it."""
    return " ".join(Path(str(word)).name if i == 0 else str(word) for i, word in enumerate(command))


def start(command, log, **options):
    """A process of ours in its own session, so that a signal to the demo does not reach it unasked."""
    with open(log, "ab") as sink:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )


def end(process, patience=15):
    """Ends one of our processes: asked first, then killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(probe, seconds, what, alive=None):
    """Calls `probe` until it answers something true; fails after `seconds` or when `alive` has ended."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        if alive is not None and alive.poll() is not None:
            raise Failed(f"{what}: process {alive.pid} ended with {alive.returncode}")
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)
    return answer


@contextlib.contextmanager
def libvirt(folder, log):
    """The URI of a libvirt to use: the machine's where it answers, else one of our own until the end.

    Ours keeps its sockets, state and configuration in `folder`. As root that takes a mount namespace
    (libvirtd has one /run, and only one): the demo and all it starts move into it. Otherwise it is a
    session daemon with XDG folders of its own.
    """
    if answers("qemu:///system"):
        yield "qemu:///system"
        return
    for name in ("run/libvirt", "lib", "cache", "etc/libvirt"):
        (folder / name).mkdir(parents=True)
    conf = folder / "etc/libvirt"
    # Files for the consoles: virtlogd would be one more process, and would outlive the demo.
    qemu_conf = 'stdio_handler = "file"\nsecurity_driver = "none"\ncgroup_controllers = []\n'
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin")
    if os.geteuid() == 0:
        shutil.copytree("/etc/libvirt", conf, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(conf / "qemu/networks/autostart", ignore_errors=True)
        qemu_conf += 'user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\nnamespaces = []\n'
        own_mounts({folder / "run/libvirt": "/run/libvirt", folder / "lib": "/var/lib/libvirt",
                    folder / "cache": "/var/cache/libvirt", conf: "/etc/libvirt"})
        uri = "qemu:///system"
    else:
        places = {"RUNTIME_DIR": "run", "CONFIG_HOME": "etc", "CACHE_HOME": "cache", "DATA_HOME": "lib"}
        environment.update({f"XDG_{name}": str(folder / place) for name, place in places.items()})
        uri = f"qemu:///session?socket={folder / 'run/libvirt/libvirt-sock'}"
    (conf / "libvirtd.conf").write_text('auth_unix_rw = "none"\n')
    (conf / "qemu.conf").write_text(qemu_conf)
    daemon = start(["libvirtd", "--pid-file", folder / "libvirtd.pid"], log, env=environment)
    try:
        wait_until(lambda: answers(uri), 60, "libvirtd", alive=daemon)
        yield uri
        for name in output(["virsh", "-c", uri, "list", "--name"]).split():
            output(["virsh", "-c", uri, "destroy", name])
    finally:
        end(daemon)


def answers(uri):
    """Whether a libvirt is there."""
    probe = subprocess.run(["virsh", "-c", uri, "list"], capture_output=True, timeout=60, check=False)
    return probe.returncode == 0


def own_mounts(binds):
    """Moves this process into a mount namespace of its own, with our folders over the machine's."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000) != 0:  # CLONE_NEWNS, unshare(2)
        raise Failed(f"unshare: {os.strerror(ctypes.get_errno())}", "start libvirtd by hand, then `make demo` again")
    output(["mount", "--make-rprivate", "/"])
    for ours, theirs in binds.items():
        Path(theirs).mkdir(parents=True, exist_ok=True)
        output(["mount", "--bind", ours, theirs])
