"""What the client scripts share: where the server is, a boto3 client for it, and how claims are run.

A claim is a function whose name says what must hold. `run_claims` calls every function of a module
whose name starts with "it_", in the order of the file, and ends non-zero if one does not hold.
"""

import base64
import hashlib
import os
import sys
import time
import traceback
import zlib

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT = os.environ["S3_ENDPOINT"]
ACCESS_KEY = os.environ["AWS_ACCESS_KEY_ID"]
SECRET_KEY = os.environ["AWS_SECRET_ACCESS_KEY"]
REGION = os.environ["AWS_DEFAULT_REGION"]
MIB = 1 << 20


def client(access_key=ACCESS_KEY, secret_key=SECRET_KEY, **options):
    """A boto3 client that tries once, so that a refusal is seen and not tried away."""
    config = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        signature_version=options.pop("signature_version", "s3v4"),
        **options,
    )
    return boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )


def refusal(call, *arguments, **named):
    """(code, status) of a call that must be refused."""
    try:
        call(*arguments, **named)
    except ClientError as error:
        reply = error.response
        return reply["Error"]["Code"], reply["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError(f"{call.__name__} was not refused: {named}")


def same(got, wanted, about=""):
    """Fails with both values."""
    if got != wanted:
        shown = [repr(value) if len(repr(value)) < 400 else repr(value)[:400] + "…" for value in (got, wanted)]
        raise AssertionError(f"{about or 'value'}: got {shown[0]}, wanted {shown[1]}")


def noise(size, seed=0):
    """Bytes that no two places share, the same for the same seed."""
    out = bytearray()
    block = hashlib.sha512(f"{seed}".encode()).digest()
    counter = 0
    while len(out) < size:
        out += hashlib.sha512(block + counter.to_bytes(8, "big")).digest() * 16
        counter += 1
    return bytes(out[:size])


def crc_table(polynomial, bits):
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ polynomial if value & 1 else value >> 1
        table.append(value)
    return table, (1 << bits) - 1


CRC32C = crc_table(0x82F63B78, 32)
CRC64NVME = crc_table(0x9A6C9329AC4BC9B5, 64)


def crc(kind, data):
    table, mask = kind
    value = mask
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value ^ mask


def checksum(algorithm, data):
    """The checksum as S3 writes it, computed without the server's code."""
    digest = {
        "CRC32": lambda: zlib.crc32(data).to_bytes(4, "big"),
        "CRC32C": lambda: crc(CRC32C, data).to_bytes(4, "big"),
        "CRC64NVME": lambda: crc(CRC64NVME, data).to_bytes(8, "big"),
        "SHA1": lambda: hashlib.sha1(data).digest(),
        "SHA256": lambda: hashlib.sha256(data).digest(),
    }[algorithm]()
    return base64.b64encode(digest).decode()


def md5(data):
    return hashlib.md5(data).hexdigest()


def fresh_bucket(s3, name):
    s3.create_bucket(Bucket=name)
    return name


def run_claims(module):
    claims = [(name, claim) for name, claim in vars(module).items() if name.startswith("it_")]
    failed = 0
    for name, claim in claims:
        began = time.monotonic()
        try:
            claim()
        except Exception:
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc(file=sys.stdout)
        else:
            print(f"holds  {name}  {time.monotonic() - began:.2f} s")
        sys.stdout.flush()
    print(f"{len(claims) - failed} of {len(claims)} claims hold")
    sys.exit(1 if failed or not claims else 0)
