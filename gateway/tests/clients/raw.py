"""What a server must do with requests that no well-behaved client sends.

Requests are signed here, by the book ("Create a signed AWS API request", IAM user guide), then
spoilt, and written to a plain socket.
"""

import datetime
import hmac
import socket
import sys
import urllib.parse

from door import *

HOST, PORT = ENDPOINT.removeprefix("http://").split(":")
s3 = client()
BUCKET = fresh_bucket(s3, "raw-claims")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def chain(key, *words):
    for word in words:
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return key


class Request:
    """A request that can be spoilt at every step of its making."""

    def __init__(self, method, path, body=b"", query="", headers=None, **spoil):
        self.method, self.path, self.query, self.body = method, path, query, body
        now = datetime.datetime.now(datetime.timezone.utc) + spoil.get("skew", datetime.timedelta())
        self.stamp = now.strftime("%Y%m%dT%H%M%SZ")
        self.day = self.stamp[:8]
        self.service = spoil.get("service", "s3")
        self.scope = f"{self.day}/{REGION}/{self.service}/aws4_request"
        self.secret = spoil.get("secret", SECRET_KEY)
        self.access = spoil.get("access", ACCESS_KEY)
        self.headers = {
            "host": f"{HOST}:{PORT}",
            "x-amz-date": self.stamp,
            "x-amz-content-sha256": sha256(body),
            "content-length": str(len(body)),
            **(headers or {}),
        }
        self.headers = {name: value for name, value in self.headers.items() if value is not None}
        self.unsigned = spoil.get("unsigned", {"content-length"})
        self.sign()

    def key(self):
        return chain(f"AWS4{self.secret}".encode(), self.day, REGION, self.service, "aws4_request")

    def sign(self):
        signed = sorted(name for name in self.headers if name not in self.unsigned)
        canonical = "\n".join(
            [self.method, self.path, self.query]
            + [f"{name}:{self.headers[name]}" for name in signed]
            + ["", ";".join(signed), self.headers.get("x-amz-content-sha256", "")]
        )
        text = "\n".join(["AWS4-HMAC-SHA256", self.stamp, self.scope, sha256(canonical.encode())])
        self.signature = hmac.new(self.key(), text.encode(), hashlib.sha256).hexdigest()
        self.headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access}/{self.scope}, "
            f"SignedHeaders={';'.join(signed)}, Signature={self.signature}"
        )

    def chunk_signature(self, previous, data):
        nothing = sha256(b"")
        text = "\n".join(["AWS4-HMAC-SHA256-PAYLOAD", self.stamp, self.scope, previous, nothing, sha256(data)])
        return hmac.new(self.key(), text.encode(), hashlib.sha256).hexdigest()

    def head(self):
        target = self.path + (f"?{self.query}" if self.query else "")
        lines = [f"{self.method} {target} HTTP/1.1"] + [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\nconnection: close\r\n\r\n").encode("latin-1")

    def send(self, body=None, cut=False):
        """(status, code, reply). `cut`: close our side of the connection behind the body."""
        with socket.create_connection((HOST, int(PORT)), timeout=20) as line:
            try:
                line.sendall(self.head() + (self.body if body is None else body))
            except (BrokenPipeError, ConnectionResetError):
                pass
            if cut:
                line.shutdown(socket.SHUT_WR)
            reply = b""
            try:
                while piece := line.recv(65536):
                    reply += piece
            except ConnectionResetError:
                pass
        if not reply:
            return None, None, b""
        code = reply.partition(b"<Code>")[2].partition(b"</Code>")[0].decode()
        return int(reply.split(b" ", 2)[1]), code, reply


def absent(key):
    same(refusal(s3.head_object, Bucket=BUCKET, Key=key)[1], 404, f"{key} was committed")


def put(key, body=b"hello", **more):
    return Request("PUT", f"/{BUCKET}/{key}", body, **more)


def it_takes_a_request_signed_by_the_book():
    same(put("good").send()[0], 200)
    same(s3.get_object(Bucket=BUCKET, Key="good")["Body"].read(), b"hello")
    # Any region: there is only this store.
    same(client().head_object(Bucket=BUCKET, Key="good")["ContentLength"], 5)


def it_refuses_a_wrong_signature_key_and_secret():
    spoilt = put("bad")
    spoilt.headers["authorization"] = spoilt.headers["authorization"][:-4] + "0000"
    same(spoilt.send()[:2], (403, "SignatureDoesNotMatch"))
    same(put("bad", secret="x" * 40).send()[:2], (403, "SignatureDoesNotMatch"))
    same(put("bad", access="INF4AAAAAAAAAAAAAAAA").send()[:2], (403, "InvalidAccessKeyId"))
    moved = put("bad")
    moved.path = f"/{BUCKET}/elsewhere"
    same(moved.send()[:2], (403, "SignatureDoesNotMatch"))
    anonymous = put("bad")
    del anonymous.headers["authorization"]
    same(anonymous.send()[:2], (403, "AccessDenied"))
    same(Request("GET", "/", service="sts").send()[:2], (400, "AuthorizationHeaderMalformed"))
    for nonsense in ["", "AWS4-HMAC-SHA256", "Basic cm9vdDpyb290", "AWS4-HMAC-SHA256 " + "x" * 5000]:
        strange = put("bad")
        strange.headers["authorization"] = nonsense
        status = strange.send()[0]
        same(status in (400, 403), True, f"{nonsense[:30]} got {status}")
    for key in ["bad", "elsewhere"]:
        absent(key)


def it_refuses_a_clock_that_is_a_quarter_of_an_hour_off():
    for minutes in [-16, 16]:
        skewed = put("skewed", skew=datetime.timedelta(minutes=minutes))
        same(skewed.send()[:2], (403, "RequestTimeTooSkewed"), minutes)
    for minutes in [-14, 14]:
        same(put("skewed-little", skew=datetime.timedelta(minutes=minutes)).send()[0], 200, minutes)
    absent("skewed")


def it_refuses_what_was_not_signed():
    for name, value in [("x-amz-meta-a", "b"), ("x-amz-acl", "private"), ("x-amz-copy-source", f"/{BUCKET}/good")]:
        added = put("unsigned")
        added.headers[name] = value
        status, code, reply = added.send()
        same((status, code), (403, "AccessDenied"), name)
        same(b"not signed" in reply, True)
        never = put("unsigned", headers={name: value}, unsigned={"content-length", name})
        same(never.send()[:2], (403, "AccessDenied"), name)
    same(put("unsigned", unsigned={"content-length", "host"}).send()[:2], (403, "AccessDenied"))
    twice = put("unsigned", headers={"x-amz-meta-a": "b"})
    doubled = twice.head().replace(b"x-amz-meta-a: b", b"x-amz-meta-a: b\r\nx-amz-meta-a: c")
    with socket.create_connection((HOST, int(PORT)), timeout=20) as line:
        line.sendall(doubled + b"hello")
        same(line.recv(65536).split(b" ")[1] in (b"400", b"403"), True)
    absent("unsigned")


def it_commits_nothing_of_a_truncated_body():
    for payload in [None, "UNSIGNED-PAYLOAD"]:
        headers = {"x-amz-content-sha256": payload} if payload else {}
        for size in [5, 3 * MIB]:
            data = noise(size)
            status, code, _ = put("cut", data, headers=headers).send(data[: size // 2], cut=True)
            same((status, code) in [(400, "IncompleteBody"), (None, None)], True, f"{status} {code}")
    absent("cut")


def it_never_takes_bytes_behind_the_announced_ones_for_the_body():
    status, _, _ = put("long", b"hello").send(b"hello, and more")
    same(status, 200)
    same(s3.get_object(Bucket=BUCKET, Key="long")["Body"].read(), b"hello")


def it_refuses_wrong_digests_and_commits_nothing():
    for name, value, code in [
        ("x-amz-content-sha256", sha256(b"other"), "XAmzContentSHA256Mismatch"),
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==", "BadDigest"),
        ("content-md5", "nonsense", "InvalidDigest"),
        ("x-amz-checksum-crc32", "AAAAAA==", "BadDigest"),
        ("x-amz-checksum-crc32", "AAAA", "InvalidRequest"),
        ("x-amz-checksum-sha256", checksum("SHA256", b"other"), "BadDigest"),
    ]:
        for size in [5, MIB + 5]:
            same(put("wrong", noise(size), headers={name: value}).send()[:2], (400, code), f"{name} {size}")
    absent("wrong")
    document = b"<Delete><Object><Key>good</Key></Object></Delete>"
    for name, value, code in [
        ("x-amz-content-sha256", sha256(b"other"), "XAmzContentSHA256Mismatch"),
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==", "BadDigest"),
        ("x-amz-checksum-crc32", "AAAAAA==", "BadDigest"),
    ]:
        delete = Request("POST", f"/{BUCKET}", document, query="delete=", headers={name: value})
        same(delete.send()[:2], (400, code), name)
    same(s3.head_object(Bucket=BUCKET, Key="good")["ContentLength"], 5)


def streamed(key, data, trailer=None, declared=None, payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER", **more):
    headers = {
        "x-amz-content-sha256": payload,
        "x-amz-decoded-content-length": str(len(data) if declared is None else declared),
        "content-encoding": "aws-chunked",
    }
    if trailer:
        headers["x-amz-trailer"] = trailer
    framed = b"%x\r\n" % len(data) + data + b"\r\n" if data else b""
    request = put(key, framed, headers=headers, **more)
    return request, framed


def ended(request, framed, end):
    body = framed + end
    request.headers["content-length"] = str(len(body))
    return request.send(body)


def it_verifies_trailers():
    data = noise(2 * MIB + 7, "trailer")
    for algorithm in ["CRC32", "SHA256"]:
        name = f"x-amz-checksum-{algorithm.lower()}"
        right = f"{name}:{checksum(algorithm, data)}".encode()
        wrong = f"{name}:{checksum(algorithm, data[1:])}".encode()
        for end, wanted in [
            (b"0\r\n" + right + b"\r\n\r\n", (200, "")),
            (b"0\r\n" + wrong + b"\r\n\r\n", (400, "BadDigest")),
            (b"0\r\n" + name.encode() + b":AAAA\r\n\r\n", (400, "InvalidRequest")),
            (b"0\r\n\r\n", (400, "MalformedTrailerError")),
            (b"0\r\nno colon\r\n\r\n", (400, "InvalidRequest")),
            (b"", (400, "IncompleteBody")),
        ]:
            key = f"trailed-{algorithm}-{wanted[0]}"
            same(ended(*streamed(key, data, name), end)[:2], wanted, f"{algorithm} {end[-40:]}")
        same(s3.get_object(Bucket=BUCKET, Key=f"trailed-{algorithm}-200")["Body"].read() == data, True)
        absent(f"trailed-{algorithm}-400")
    request, framed = streamed("trailed", b"x", "x-amz-meta-late")
    same(ended(request, framed, b"0\r\n\r\n")[:2], (400, "InvalidRequest"))


def it_refuses_chunked_bodies_that_are_not_what_they_announce():
    data = noise(100_000, "chunks")
    name = "x-amz-checksum-crc32"
    end = f"0\r\n{name}:{checksum('CRC32', data)}\r\n\r\n".encode()
    for declared, wanted in [(len(data) - 1, (400, "IncompleteBody")), (len(data) + 1, (400, "IncompleteBody")), ("x", (400, "InvalidRequest"))]:
        request, framed = streamed("chunked", data, name, declared)
        same(ended(request, framed, end)[:2], wanted, declared)
    request, framed = streamed("chunked", data, name)
    same(ended(request, framed[:-2], end)[:2], (400, "InvalidRequest"))
    request, framed = streamed("chunked", data, name)
    same(ended(request, b"zz\r\n" + framed, end)[:2], (400, "InvalidRequest"))
    huge, framed = streamed("chunked", b"x", name)
    same(ended(huge, b"fffffffffffffff\r\n", b"x")[:2], (400, "IncompleteBody"))
    absent("chunked")


def it_verifies_each_signed_chunk():
    chunks = [noise(65536, 1), noise(65536, 2), noise(1000, 3), b""]
    data = b"".join(chunks)

    def send(spoil=None, drop_last=False):
        request, _ = streamed("signed-chunks", data, payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
        previous, body = request.signature, b""
        for number, chunk in enumerate(chunks):
            previous = request.chunk_signature(previous, chunk)
            sent = chunk[:-1] + b"!" if number == spoil else chunk
            if not (drop_last and not chunk):
                body += b"%x;chunk-signature=%s\r\n" % (len(sent), previous.encode()) + sent + b"\r\n"
        return ended(request, b"", body)[:2]

    same(send(spoil=1), (403, "SignatureDoesNotMatch"))
    same(send(drop_last=True), (400, "IncompleteBody"))
    absent("signed-chunks")
    same(send(), (200, ""))
    same(s3.get_object(Bucket=BUCKET, Key="signed-chunks")["Body"].read() == data, True)
    request, _ = streamed("signed-large", b"x" * (9 << 20), payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
    size_line = b"%x;chunk-signature=%s\r\n" % (9 << 20, b"0" * 64)
    same(ended(request, size_line, b"x" * 100)[:2], (400, "InvalidRequest"))


def it_refuses_sizes_that_cannot_be():
    same(put("sized", headers={"content-length": str((5 << 30) + 1)}).send(b"")[:2], (400, "EntityTooLarge"))
    endless = put("sized", headers={"content-length": None, "transfer-encoding": "chunked", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, unsigned={"transfer-encoding"})
    same(endless.send(b"5\r\nhello\r\n0\r\n\r\n")[:2], (411, "MissingContentLength"))
    document = b"<Delete>" + b" " * (5 << 20) + b"</Delete>"
    large = Request("POST", f"/{BUCKET}", document, query="delete=")
    same(large.send()[:2], (400, "MaxMessageLengthExceeded"))
    absent("sized")


def it_refuses_keys_that_cannot_be_and_never_falls_over():
    for path, wanted in [
        ("%ff%fe", (400, "InvalidURI")),
        ("a%00b", (400, "InvalidURI")),
        ("k" * 1025, (400, "KeyTooLongError")),
        ("%C3%A9" * 513, (400, "KeyTooLongError")),
    ]:
        same(put(path).send()[:2], wanted, path[:20])
    for bucket in ["UPPER", "a", "..", "x" * 64, "1.2.3.4", "a..b"]:
        same(Request("PUT", f"/{bucket}").send()[:2], (400, "InvalidBucketName"), bucket)
    for query in ["uploadId=..%2F..&partNumber=1", "partNumber=99999999999&uploadId=x", "uploadId=%00&partNumber=1"]:
        status = put("k", query="&".join(sorted(query.split("&")))).send()[0]
        same(400 <= status < 500, True, f"{query}: {status}")
    for document in [b"", b"<", b"<Delete/>", b"<!DOCTYPE x [<!ENTITY a \"b\">]><Delete>&a;</Delete>", b"\xff" * 100, b"<Delete>" * 10000]:
        status, code, _ = Request("POST", f"/{BUCKET}", document, query="delete=").send()
        fitting = ("MalformedXML", "MissingRequestBodyError")
        same((status, code in fitting), (400, True), f"{document[:30]}: {code}")
    for line in [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"]:
        with socket.create_connection((HOST, int(PORT)), timeout=20) as wire:
            wire.sendall(line)
            wire.shutdown(socket.SHUT_WR)
            reply = wire.recv(65536)
        same(reply[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 403"), True, reply[:40])
    same(s3.head_object(Bucket=BUCKET, Key="good")["ContentLength"], 5)


def it_is_heard_by_a_client_that_still_writes():
    data = bytes(12 * MIB)
    same(put("unheard", data, secret="x" * 40).send()[:2], (403, "SignatureDoesNotMatch"))
    same(Request("PUT", "/raw-nowhere/k", data).send()[:2], (404, "NoSuchBucket"))
    huge, framed = streamed("unheard", data, payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
    same(ended(huge, framed, b"0\r\n\r\n")[:2], (400, "InvalidRequest"))
    absent("unheard")


def it_says_go_on_only_to_those_who_may():
    for secret, wanted in [(SECRET_KEY, b"HTTP/1.1 100"), ("x" * 40, b"HTTP/1.1 403")]:
        request = put("expected", headers={"expect": "100-continue"}, unsigned={"content-length", "expect"}, secret=secret)
        with socket.create_connection((HOST, int(PORT)), timeout=20) as line:
            line.sendall(request.head().replace(b"connection: close\r\n", b""))
            heard = line.recv(65536)
            same(heard[:12], wanted)
            if wanted.endswith(b"403"):
                # Its body was never asked for, so this connection is at its end, and says so.
                same(b"connection: close" in heard.lower(), True)
            else:
                line.sendall(b"hello")
                same(b"HTTP/1.1 200" in line.recv(65536), True)
    # botocore misreads what follows an answer that came where it waited for "go on".
    empty = put("expected-empty", b"", headers={"expect": "100-continue"}, unsigned={"content-length", "expect"})
    with socket.create_connection((HOST, int(PORT)), timeout=20) as line:
        line.sendall(empty.head().replace(b"connection: close\r\n", b""))
        heard = line.recv(65536).lower()
        same((heard[:12], b"connection: close" in heard), (b"http/1.1 200", True))


run_claims(sys.modules[__name__])
