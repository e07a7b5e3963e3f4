"""What the tools that people type must see: aws, rclone, s3cmd, as they come."""

import filecmp
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request

from door import *

HOME = pathlib.Path(tempfile.mkdtemp(prefix="s3-tools-"))
AWS = pathlib.Path(sys.executable).with_name("aws")
HOST = ENDPOINT.removeprefix("http://")
S3CMD = HOME / "s3cfg"
S3CMD.write_text(
    f"""[default]
access_key = {ACCESS_KEY}
secret_key = {SECRET_KEY}
host_base = {HOST}
host_bucket = {HOST}
bucket_location = {REGION}
use_https = False
signature_v2 = False
multipart_chunk_size_mb = 6
"""
)
ENVIRONMENT = {
    "HOME": str(HOME),
    "PATH": os.environ["PATH"],
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ENDPOINT_URL": ENDPOINT,
    "RCLONE_CONFIG_INFALL_TYPE": "s3",
    "RCLONE_CONFIG_INFALL_PROVIDER": "Other",
    "RCLONE_CONFIG_INFALL_ACCESS_KEY_ID": ACCESS_KEY,
    "RCLONE_CONFIG_INFALL_SECRET_ACCESS_KEY": SECRET_KEY,
    "RCLONE_CONFIG_INFALL_ENDPOINT": ENDPOINT,
    "RCLONE_CONFIG_INFALL_REGION": REGION,
    "RCLONE_CONFIG_INFALL_CHUNK_SIZE": "6Mi",
    "RCLONE_CONFIG_INFALL_UPLOAD_CUTOFF": "8Mi",
    "RCLONE_CONFIG_INFALL_ACL": "private",
}


def run(*command, fails=False):
    ran = subprocess.run([str(word) for word in command], env=ENVIRONMENT, capture_output=True, cwd=HOME)
    said = ran.stdout.decode(errors="replace") + ran.stderr.decode(errors="replace")
    if (ran.returncode != 0) != fails:
        raise AssertionError(f"{command} ended with {ran.returncode}:\n{said}")
    return said


def aws(*words, **how):
    return run(AWS, *words, **how)


def rclone(*words, **how):
    return run("rclone", *words, **how)


def s3cmd(*words, **how):
    return run("s3cmd", "-c", S3CMD, *words, **how)


def tree(name):
    root = HOME / name
    for path, size in [("a.txt", 5), ("sub/b b.bin", 70_000), ("sub/deep/ü", 0), ("large.bin", 13 * MIB + 3)]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(noise(size, path))
    return root


def same_tree(one, two):
    left = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    same({path.relative_to(two) for path in two.rglob("*") if path.is_file()}, left)
    _, mismatch, errors = filecmp.cmpfiles(one, two, [str(path) for path in left], shallow=False)
    same((mismatch, errors), ([], []))


SOURCE = tree("source")


def it_serves_the_aws_command_line():
    aws("s3", "mb", "s3://aws-tool")
    aws("s3", "cp", "--recursive", SOURCE, "s3://aws-tool/tree/")
    listed = aws("s3", "ls", "--recursive", "s3://aws-tool/")
    assert "tree/sub/b b.bin" in listed and "tree/sub/deep/ü" in listed, listed
    assert "PRE tree/" in aws("s3", "ls", "s3://aws-tool/")
    aws("s3", "sync", "s3://aws-tool/tree/", HOME / "aws-back")
    same_tree(SOURCE, HOME / "aws-back")
    same(aws("s3", "sync", SOURCE, "s3://aws-tool/tree/", "--size-only"), "")
    aws("s3", "cp", "s3://aws-tool/tree/large.bin", "s3://aws-tool/copied.bin")
    aws("s3", "mv", "s3://aws-tool/copied.bin", HOME / "moved.bin")
    same((HOME / "moved.bin").read_bytes() == (SOURCE / "large.bin").read_bytes(), True)
    url = aws("s3", "presign", "s3://aws-tool/tree/a.txt").strip()
    same(urllib.request.urlopen(url).read(), (SOURCE / "a.txt").read_bytes())
    head = aws("s3api", "head-object", "--bucket", "aws-tool", "--key", "tree/large.bin", "--checksum-mode", "ENABLED")
    assert "ChecksumType" in head, head
    assert "BucketNotEmpty" in aws("s3", "rb", "s3://aws-tool", fails=True)
    aws("s3", "rb", "--force", "s3://aws-tool")


def it_serves_rclone():
    rclone("mkdir", "infall:rclone-tool")
    rclone("copy", SOURCE, "infall:rclone-tool/tree")
    rclone("check", "--download", SOURCE, "infall:rclone-tool/tree")
    said = rclone("check", SOURCE, "infall:rclone-tool/tree")
    assert "0 differences found" in said, said
    same(rclone("cat", "--offset", "2", "--count", "2", "infall:rclone-tool/tree/a.txt").encode("latin-1", "replace")[:0], b"")
    rclone("sync", "infall:rclone-tool/tree", HOME / "rclone-back")
    same_tree(SOURCE, HOME / "rclone-back")
    rclone("copyto", "infall:rclone-tool/tree/large.bin", "infall:rclone-tool/server-side.bin")
    rclone("moveto", "infall:rclone-tool/server-side.bin", "infall:rclone-tool/moved.bin")
    assert "moved.bin" in rclone("lsf", "infall:rclone-tool")
    same(rclone("hashsum", "md5", "infall:rclone-tool/tree/a.txt").split()[0], md5((SOURCE / "a.txt").read_bytes()))
    rclone("purge", "infall:rclone-tool")
    assert "rclone-tool" not in rclone("lsd", "infall:")


def it_serves_s3cmd():
    s3cmd("mb", "s3://s3cmd-tool")
    s3cmd("put", "--recursive", f"{SOURCE}/", "s3://s3cmd-tool/tree/")
    listed = s3cmd("ls", "--recursive", "s3://s3cmd-tool")
    assert "s3://s3cmd-tool/tree/sub/b b.bin" in listed, listed
    back = HOME / "s3cmd-back"
    back.mkdir()
    s3cmd("get", "--recursive", "s3://s3cmd-tool/tree/", f"{back}/")
    same_tree(SOURCE, back)
    s3cmd("cp", "s3://s3cmd-tool/tree/a.txt", "s3://s3cmd-tool/b.txt")
    s3cmd("mv", "s3://s3cmd-tool/b.txt", "s3://s3cmd-tool/c.txt")
    same(s3cmd("get", "--force", "s3://s3cmd-tool/c.txt", "-") != "", True)
    s3cmd("del", "--recursive", "--force", "s3://s3cmd-tool")
    s3cmd("rb", "s3://s3cmd-tool")
    assert "404" in s3cmd("ls", "s3://s3cmd-tool", fails=True)


try:
    run_claims(sys.modules[__name__])
finally:
    shutil.rmtree(HOME, ignore_errors=True)
