"""One line per step: `[4/9] upload          what, with figures                    ok   212 MB/s`."""

import contextlib
import shutil
import sys
import time

NAMES = ["packages", "build", "serve", "upload", "image, clone", "boot", "kill -9 server", "snapshot", "clean"]


class Step:
    """The step under way: `text` and `figure` may change until it is done."""

    def __init__(self, number):
        self.number = number
        self.text = ""
        self.figure = None
        self.notes = []
        self.started = time.monotonic()

    def elapsed(self):
        """Seconds since it began."""
        return time.monotonic() - self.started

    def line(self, state=""):
        """The whole line."""
        head = f"[{self.number}/{len(NAMES)}] {NAMES[self.number - 1]:<15} "
        return f"{head}{self.text:<70} {state}".rstrip()

    def progress(self, text):
        """Shows what goes on, on a terminal only."""
        self.text = text
        if sys.stdout.isatty():
            # A line that wraps could not be taken back.
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{self.line()[:width]}", end="", flush=True)

    def note(self, text):
        """A line of its own under the step, once that has held."""
        self.notes.append(text)


@contextlib.contextmanager
def step(number, text=""):
    """A step: its line is printed when it has held or failed."""
    this = Step(number)
    this.progress(text)
    clear = "\r\033[K" if sys.stdout.isatty() else ""
    try:
        yield this
    except BaseException:
        print(clear + this.line("FAILED"), flush=True)
        raise
    figure = duration(this.elapsed()) if this.figure is None else this.figure
    print(clear + this.line(f"ok  {figure:>10}"), flush=True)
    for note in this.notes:
        print(f"{'':<22}{note}", flush=True)


def duration(seconds):
    """`4.1 s`, `48 s`, `2 min 21 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def mib(count):
    """Bytes as MiB; small counts as bytes."""
    return f"{count / (1 << 20):.0f} MiB" if count >= 1 << 20 else f"{count} B"


def bar(fraction, width=10):
    """A progress bar."""
    full = round(max(0.0, min(1.0, fraction)) * width)
    return "█" * full + "░" * (width - full)
