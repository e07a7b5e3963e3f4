"""Steps 1 and 2: what the machine needs, and the release binary with an estimate."""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import screen
from owned import Failed, end, output

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(
    os.environ.get("INFALL_TOOLS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infall/tools"
)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infall"

PRESUMED = {
    "make": "apt-get install make",
    "cc": "apt-get install gcc libc6-dev",
    "c++": "apt-get install g++",
    "cargo": "https://rustup.rs",
}
# RocksDB is compiled from some 340 C++ files, each about three times the work of a crate.
ROCKSDB_FILE_WEIGHT = 3


def packages(folder):
    """What is presumed is named with the way to get it; the rest scripts/packages installs."""
    with screen.step(1, "libvirt, qemu, awscli …") as step:
        lacking = [f"{name} ({way})" for name, way in PRESUMED.items() if not shutil.which(name)]
        if lacking:
            raise Failed("not on the PATH: " + ", ".join(lacking), "install these, then `make demo` again")
        script = ROOT / "scripts/packages"
        check = subprocess.run([script, "--check"], capture_output=True, text=True, check=False)
        if check.returncode == 0:
            step.text = "libvirt, qemu, awscli: all there"
            return
        step.note(check.stdout.strip().splitlines()[0])
        log = folder / "packages.log"
        with open(log, "wb") as sink:
            # A password that sudo needs is asked on the terminal itself, not on stdin.
            install = subprocess.Popen([script], stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            while install.poll() is None:
                lines = log.read_text(errors="replace").splitlines()
                step.progress(f"installing … {lines[-1][:48] if lines else ''}")
                try:
                    install.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        if install.returncode != 0:
            said = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise Failed("scripts/packages: " + " / ".join(said), "mend what apt says, then run scripts/packages")
        step.text = "libvirt, qemu, awscli: installed"


def build(folder):
    """Builds the release binary; its path."""
    with screen.step(2, "cargo build --release") as step:
        total = len(set(output(["cargo", "tree", "-p", "infall", "-e", "normal,build", "--prefix", "none"], cwd=ROOT)
                        .replace(" (*)", "").splitlines()))
        target = Path(json.loads(output(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT))["target_directory"])
        log = folder / "build.log"
        with open(log, "wb") as sink:
            cargo = subprocess.Popen(
                ["cargo", "build", "--release", "--locked", "-p", "infall", "--message-format", "json-render-diagnostics"],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=sink, stdin=subprocess.DEVNULL, text=True,
            )
        built = Built(cargo)
        try:
            while built.thread.is_alive():
                built.thread.join(1)
                step.progress(progress(built, total, target, step.elapsed()))
        except BaseException:
            end(cargo)
            raise
        if cargo.wait() != 0 or built.binary is None:
            errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error")]
            raise Failed("cargo: " + " / ".join(errors[:3] or ["see the log"]), f"read {log}")
        step.text = f"{total} crates, {'RocksDB linked from a folder' if 'ROCKSDB_LIB_DIR' in os.environ else 'RocksDB from its sources'}"
        return Path(built.binary)


class Built:
    """What cargo says is done, counted as it comes."""

    def __init__(self, cargo):
        self.crates = set()
        self.binary = None
        self.thread = threading.Thread(target=self.read, args=(cargo.stdout,), daemon=True)
        self.thread.start()

    def read(self, lines):
        """One JSON message a line (The Cargo Book, External tools, "JSON messages")."""
        for line in lines:
            message = json.loads(line)
            if message["reason"] == "compiler-artifact" and "custom-build" not in message["target"]["kind"]:
                self.crates.add(message["package_id"])
                if message["target"]["name"] == "infall" and message["executable"]:
                    self.binary = message["executable"]


def progress(built, total, target, elapsed):
    """`41 of 296 crates, RocksDB 120 of 340 files  ███░░  38 %  9 min left`."""
    done, whole, rocksdb = len(built.crates), total, ""
    if "ROCKSDB_LIB_DIR" not in os.environ and not any("#rocksdb@" in crate for crate in built.crates):
        files = max((len(list(out.glob("**/*.o"))) for out in target.glob("release/build/librocksdb-sys-*/out")), default=0)
        done += files * ROCKSDB_FILE_WEIGHT
        whole += 340 * ROCKSDB_FILE_WEIGHT
        rocksdb = f"RocksDB once, about 16 min on 2 cores: {files} of 340 files"
    fraction = min(done / whole, 1.0)
    left = ""
    if fraction > 0.03 and elapsed > 20:
        left = f"{screen.duration(elapsed * (1 - fraction) / fraction)} left"
    return f"{rocksdb or f'{len(built.crates)} of {total} crates'}  {screen.bar(fraction)} {fraction:4.0%}  {left}"
