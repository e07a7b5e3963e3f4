"""Who may: a member with a policy, and a stranger who rules a project of their own and no more."""

import json
import subprocess

from owned import Failed, shown

# What the member may, and nothing else.
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::images/*"},
        {"Effect": "Allow", "Action": ["vm:Describe", "vm:Console"], "Resource": "*"},
    ],
}
# And the stranger, in the project elsewhere: anything with objects, disks and VMs.
STRANGER = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:*", "volume:*", "vm:*"], "Resource": "*"}],
}
# `infall help exit-codes`
DENIED = 6


class People:
    """alice of this project and mallory of another, each with a key of their own."""

    def __init__(self, demo):
        self.demo = demo
        self.counts = {"alice": [0, 0], "mallory": [0, 0]}
        demo.infall("project", "create", "elsewhere")
        self.keys = {
            "alice": self.make("root/alice", POLICY),
            "mallory": self.make("elsewhere/mallory", STRANGER),
        }

    def make(self, name, policy):
        """A user with a policy in line; the key."""
        key = self.demo.json("user", "create", name, "--key")["key"]
        file = self.demo.folder / "policy.json"
        file.write_text(json.dumps(policy))
        self.demo.infall("user", "policy", "put", name, "demo", file)
        return key

    def run(self, name, words):
        """A command in somebody's name."""
        key = self.keys[name]
        own = {
            "INFALL_ACCESS_KEY": key["id"],
            "INFALL_SECRET_KEY": key["secret_key"],
            "AWS_ACCESS_KEY_ID": key["id"],
            "AWS_SECRET_ACCESS_KEY": key["secret_key"],
        }
        program = [] if words[0] == "aws" else [str(self.demo.binary)]
        return subprocess.run(
            program + [str(word) for word in words],
            env=dict(self.demo.environment, **own), capture_output=True, text=True, timeout=120, check=False,
        )

    def may(self, name, *words):
        """What must be allowed."""
        done = self.run(name, words)
        if done.returncode != 0:
            raise Failed(f"{name} may `{shown(words)}`, and was refused: {done.stderr.strip()[-300:]}")
        self.counts[name][0] += 1

    def may_not(self, name, *words):
        """What must be refused by 403, not for another reason."""
        done = self.run(name, words)
        refused = done.returncode == DENIED if words[0] != "aws" else "(403)" in done.stderr or "AccessDenied" in done.stderr
        if done.returncode == 0 or not refused:
            raise Failed(f"{name} must be refused `{shown(words)}`; it ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        self.counts[name][1] += 1

    def at_data(self):
        """Objects, images and disks."""
        self.may("alice", "aws", "s3api", "head-object", "--bucket", "images", "--key", "tiny.raw")
        self.may_not("alice", "aws", "s3", "rm", "s3://images/tiny.raw")
        self.may_not("mallory", "aws", "s3", "cp", "s3://images/tiny.raw", "-")
        self.may_not("mallory", "volume", "create", "loot", "--image", "tiny-raw")
        self.may_not("mallory", "volume", "attach", "root1", "--read-only")
        self.may_not("mallory", "vm", "run", "loot", "--root-volume", "root1")

    def at_machine(self, machine):
        """A guest that runs."""
        self.may("alice", "vm", "console", machine)
        self.may_not("alice", "vm", "stop", machine)
        for words in (["show"], ["console"], ["ssh"], ["stop", "--force"], ["rm", "--disks"]):
            self.may_not("mallory", "vm", words[0], machine, *words[1:])

    def told(self):
        """`alice 2 allowed, 2 refused; mallory 9 refused`."""
        (allowed, refused), (_, strange) = self.counts["alice"], self.counts["mallory"]
        return f"alice (a policy): {allowed} allowed, {refused} refused · mallory (another project): {strange} refused"

    def rows(self):
        """The newest row of each sort about each of them; none may be missing."""
        events = [json.loads(line) for line in self.demo.infall("events", "--json").splitlines()]
        newest = []
        for name, (allowed, refused) in self.counts.items():
            for kind, count in (("access.allowed", allowed), ("access.denied", refused)):
                found = [event for event in events if event["kind"] == kind and event["actor"] == f"user/{name}"]
                if len(found) < count:
                    raise Failed(f"{name}: {count} × {kind} happened, the journal has {len(found)}", "see `infall events`")
                if count:
                    newest.append(found[-1])
        return [f"{event['kind']:<14}  {event['actor']:<12}  {event['detail'].split(' by ')[0]:<13}  {event['subject']}" for event in newest]

    def leave(self):
        """Both go, with their keys."""
        for name in ("root/alice", "elsewhere/mallory"):
            self.demo.infall("user", "rm", name, "--with-all")
        self.demo.infall("project", "rm", "elsewhere")
