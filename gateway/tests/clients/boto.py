"""What boto3, with its own parsers and checksums, must see."""

import datetime
import email.utils
import http.client
import io
import sys
import time
import urllib.parse
import urllib.request

from boto3.s3.transfer import TransferConfig
from door import *

s3 = client()
BUCKET = fresh_bucket(s3, "boto-claims")


def put(key, body, **more):
    return s3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)


def get(key, **more):
    return s3.get_object(Bucket=BUCKET, Key=key, **more)


def body(key, **more):
    return get(key, **more)["Body"].read()


def it_keeps_a_bucket_s_life_as_s3_tells_it():
    name = "boto-life"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    same(refusal(s3.create_bucket, Bucket=name), ("BucketAlreadyOwnedByYou", 409))
    s3.head_bucket(Bucket=name)
    same(s3.get_bucket_location(Bucket=name)["LocationConstraint"], REGION)
    same(s3.get_bucket_versioning(Bucket=name).get("Status"), None)
    assert name in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    s3.put_object(Bucket=name, Key="k", Body=b"x")
    same(refusal(s3.delete_bucket, Bucket=name), ("BucketNotEmpty", 409))
    s3.delete_object(Bucket=name, Key="k")
    s3.delete_bucket(Bucket=name)
    same(refusal(s3.head_bucket, Bucket=name)[1], 404)
    same(refusal(s3.delete_bucket, Bucket=name), ("NoSuchBucket", 404))
    same(refusal(s3.put_object, Bucket=name, Key="k", Body=b"x"), ("NoSuchBucket", 404))
    same(refusal(s3.list_objects_v2, Bucket=name), ("NoSuchBucket", 404))


def it_lists_buckets_in_pages():
    for number in range(3):
        s3.create_bucket(Bucket=f"boto-page-{number}")
    pages = s3.get_paginator("list_buckets").paginate(Prefix="boto-page-", PaginationConfig={"PageSize": 2})
    same([[b["Name"] for b in page["Buckets"]] for page in pages], [["boto-page-0", "boto-page-1"], ["boto-page-2"]])


def it_gives_back_bodies_of_every_size_with_their_md5():
    for size in [0, 1, 4095, 4096, 8192, 8193, MIB - 1, MIB, MIB + 1, 3 * MIB + 12345]:
        data = noise(size, size)
        reply = put(f"size-{size}", data)
        same(reply["ETag"], f'"{md5(data)}"', size)
        found = get(f"size-{size}")
        same(found["ContentLength"], size)
        same(found["Body"].read() == data, True, size)
        same(s3.head_object(Bucket=BUCKET, Key=f"size-{size}")["ContentLength"], size)


def it_keeps_metadata_as_it_was_said():
    expires = datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)
    said = dict(
        ContentType="text/plain; charset=utf-8",
        CacheControl="max-age=60",
        ContentDisposition='attachment; filename="a b.txt"',
        ContentEncoding="gzip",
        ContentLanguage="de",
        Metadata={"colour": "blue", "with-dash": "a  b", "empty": ""},
    )
    put("described", b"x", Expires=expires, **said)
    for found in [get("described"), s3.head_object(Bucket=BUCKET, Key="described")]:
        for name, value in said.items():
            same(found[name], value, name)
        same(email.utils.parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["expires"]), expires)
    put("undescribed", b"x")
    same(get("undescribed")["ContentType"], "binary/octet-stream")
    # A streamed body travels as aws-chunked; that is no property of the object.
    s3.put_object(Bucket=BUCKET, Key="streamed", Body=io.BytesIO(b"abc"), ContentEncoding="br")
    same(get("streamed")["ContentEncoding"], "br")
    s3.put_object(Bucket=BUCKET, Key="streamed", Body=io.BytesIO(b"abc"))
    same(get("streamed").get("ContentEncoding"), None)


def it_refuses_metadata_over_two_kibibytes():
    put("meta-2k", b"x", Metadata={"k": "v" * 2047})
    same(refusal(put, "meta-2k", b"x", Metadata={"k": "v" * 2048}), ("MetadataTooLarge", 400))


def it_answers_ranges_as_rfc_9110_says():
    data = noise(2 * MIB + 100, "range")
    put("range", data)
    for asked, first, last in [
        ("bytes=0-0", 0, 0),
        ("bytes=5-", 5, len(data) - 1),
        ("bytes=-7", len(data) - 7, len(data) - 1),
        (f"bytes=-{len(data) * 2}", 0, len(data) - 1),
        (f"bytes={MIB - 1}-{MIB}", MIB - 1, MIB),
        (f"bytes={2 * MIB}-{5 * MIB}", 2 * MIB, len(data) - 1),
    ]:
        found = get("range", Range=asked)
        same(found["ResponseMetadata"]["HTTPStatusCode"], 206)
        same(found["ContentRange"], f"bytes {first}-{last}/{len(data)}", asked)
        same(found["Body"].read() == data[first : last + 1], True, asked)
        head = s3.head_object(Bucket=BUCKET, Key="range", Range=asked)
        same((head["ContentLength"], head["ResponseMetadata"]["HTTPStatusCode"]), (last + 1 - first, 206))
    same(refusal(get, "range", Range=f"bytes={len(data)}-"), ("InvalidRange", 416))
    same(refusal(get, "range", Range="bytes=-0"), ("InvalidRange", 416))
    put("empty", b"")
    same(refusal(get, "empty", Range="bytes=0-0"), ("InvalidRange", 416))


def it_judges_conditions_on_reading():
    etag = put("cond", b"one")["ETag"]
    now = get("cond")["LastModified"]
    hour = datetime.timedelta(hours=1)
    same(body("cond", IfMatch=etag), b"one")
    same(body("cond", IfNoneMatch='"other"'), b"one")
    same(body("cond", IfModifiedSince=now - hour), b"one")
    same(body("cond", IfUnmodifiedSince=now), b"one")
    same(body("cond", IfMatch=etag, IfUnmodifiedSince=now - hour), b"one")
    same(refusal(get, "cond", IfMatch='"other"'), ("PreconditionFailed", 412))
    same(refusal(get, "cond", IfUnmodifiedSince=now - hour), ("PreconditionFailed", 412))
    same(refusal(get, "cond", IfNoneMatch=etag)[1], 304)
    same(refusal(get, "cond", IfModifiedSince=now)[1], 304)
    same(refusal(s3.head_object, Bucket=BUCKET, Key="cond", IfNoneMatch=etag)[1], 304)


def it_judges_conditions_on_writing():
    key = "cond-write"
    etag = put(key, b"one", IfNoneMatch="*")["ETag"]
    same(refusal(put, key, b"two", IfNoneMatch="*"), ("PreconditionFailed", 412))
    same(refusal(put, key, b"two", IfMatch='"other"'), ("PreconditionFailed", 412))
    same(body(key), b"one")
    put(key, b"two", IfMatch=etag)
    same(body(key), b"two")
    same(refusal(put, "cond-nowhere", b"x", IfMatch=etag), ("NoSuchKey", 404))
    same(refusal(put, key, b"x", IfNoneMatch=get(key)["ETag"]), ("PreconditionFailed", 412))
    same(refusal(s3.delete_object, Bucket=BUCKET, Key=key, IfMatch=etag), ("PreconditionFailed", 412))
    s3.delete_object(Bucket=BUCKET, Key=key, IfMatch=get(key)["ETag"])
    same(refusal(get, key), ("NoSuchKey", 404))
    s3.delete_object(Bucket=BUCKET, Key=key, IfMatch=etag)


def it_verifies_keeps_and_shows_every_checksum():
    data = noise(100_000, "sum")
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
        right = {f"Checksum{algorithm}": checksum(algorithm, data)}
        wrong = {f"Checksum{algorithm}": checksum(algorithm, data[:-1])}
        key = f"sum-{algorithm}"
        same(refusal(put, key, data, **wrong), ("BadDigest", 400), algorithm)
        same(refusal(get, key), ("NoSuchKey", 404), algorithm)
        reply = put(key, data, **right)
        same(reply[f"Checksum{algorithm}"], right[f"Checksum{algorithm}"])
        for found in [get(key, ChecksumMode="ENABLED"), s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")]:
            same(found[f"Checksum{algorithm}"], right[f"Checksum{algorithm}"])
            same(found["ChecksumType"], "FULL_OBJECT")
    # boto3's own CRC32 goes as a trailer where the body is a stream.
    s3.put_object(Bucket=BUCKET, Key="sum-trailer", Body=io.BytesIO(data), ChecksumAlgorithm="CRC32")
    same(s3.head_object(Bucket=BUCKET, Key="sum-trailer", ChecksumMode="ENABLED")["ChecksumCRC32"], checksum("CRC32", data))
    quiet = client(request_checksum_calculation="when_required")
    quiet.put_object(Bucket=BUCKET, Key="sum-none", Body=data)
    shown = s3.head_object(Bucket=BUCKET, Key="sum-none", ChecksumMode="ENABLED")
    same(shown["ChecksumCRC64NVME"], checksum("CRC64NVME", data))
    same(refusal(put, "sum-bad", data, ChecksumCRC32="AAAA"), ("InvalidRequest", 400))
    same(refusal(put, "sum-bad", data, ContentMD5="AAAA"), ("InvalidDigest", 400))
    same(refusal(put, "sum-bad", data, ContentMD5="AAAAAAAAAAAAAAAAAAAAAA=="), ("BadDigest", 400))


def multipart(key, sizes, **create):
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key, **create)["UploadId"]
    parts, data = [], []
    for number, size in enumerate(sizes, 1):
        piece = noise(size, f"{key}{number}")
        where = dict(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number)
        algorithm = create.get("ChecksumAlgorithm")
        more = {f"Checksum{algorithm}": checksum(algorithm, piece)} if algorithm else {}
        reply = s3.upload_part(Body=piece, **where, **more)
        same(reply["ETag"], f'"{md5(piece)}"')
        parts.append({"PartNumber": number, "ETag": reply["ETag"], **more})
        data.append(piece)
    return upload, parts, data


def it_completes_uploads_with_s3_s_etag_and_each_kind_of_checksum():
    for algorithm, kind in [("CRC32", "FULL_OBJECT"), ("CRC32", "COMPOSITE"), ("SHA256", "COMPOSITE"), (None, None)]:
        key = f"mp-{algorithm}-{kind}"
        create = {"ChecksumAlgorithm": algorithm, "ChecksumType": kind} if algorithm else {}
        upload, parts, data = multipart(key, [5 * MIB, 5 * MIB, 1234], Metadata={"a": "b"}, **create)
        whole = b"".join(data)
        listed = s3.list_parts(Bucket=BUCKET, Key=key, UploadId=upload, MaxParts=2)
        same(listed["IsTruncated"], True)
        same([part["Size"] for part in listed["Parts"]], [5 * MIB, 5 * MIB])
        reply = s3.complete_multipart_upload(
            Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, MpuObjectSize=len(whole)
        )
        etag = f'"{md5(b"".join(bytes.fromhex(part["ETag"].strip(chr(34))) for part in parts))}-3"'
        same(reply["ETag"], etag)
        found = get(key, ChecksumMode="ENABLED")
        same(found["Body"].read() == whole, True, key)
        same(found["Metadata"], {"a": "b"})
        if kind == "FULL_OBJECT":
            same(found["ChecksumCRC32"], checksum("CRC32", whole))
        elif kind == "COMPOSITE":
            sums = b"".join(base64.b64decode(checksum(algorithm, piece)) for piece in data)
            same(found[f"Checksum{algorithm}"], f"{checksum(algorithm, sums)}-3")
            same(found["ChecksumType"], kind)
        else:
            same(found["ChecksumType"], "FULL_OBJECT")
        second = get(key, PartNumber=2)
        same((second["ContentLength"], second["PartsCount"]), (5 * MIB, 3))
        same(second["Body"].read() == data[1], True)
        same(refusal(get, key, PartNumber=4)[1], 416)
        # A client that lost the answer asks again.
        again = s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
        same(again["ETag"], etag)


def it_refuses_a_completion_that_does_not_match():
    key = "mp-refused"
    upload, parts, data = multipart(key, [1000, 1000], ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")

    def complete(parts, **more):
        s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **more)

    same(refusal(complete, parts), ("EntityTooSmall", 400))
    same(refusal(complete, parts[::-1]), ("InvalidPartOrder", 400))
    same(refusal(complete, [{**parts[0], "ETag": '"00"'}]), ("InvalidPart", 400))
    same(refusal(complete, [{**parts[0], "PartNumber": 9}]), ("InvalidPart", 400))
    same(refusal(complete, [{**parts[0], "ChecksumCRC32": "AAAAAA=="}]), ("InvalidPart", 400))
    same(refusal(complete, parts[:1], ChecksumCRC32="AAAAAA=="), ("BadDigest", 400))
    same(refusal(complete, parts[:1], ChecksumType="COMPOSITE"), ("InvalidRequest", 400))
    same(refusal(complete, parts[:1], MpuObjectSize=7), ("InvalidRequest", 400))
    same(refusal(complete, parts[:1], IfMatch='"x"'), ("NoSuchKey", 404))
    where = dict(Bucket=BUCKET, Key=key, UploadId=upload)
    same(refusal(s3.upload_part, Body=b"x", PartNumber=10001, **where), ("InvalidArgument", 400))
    same(refusal(s3.upload_part, Body=b"x", PartNumber=3, ChecksumSHA1=checksum("SHA1", b"x"), **where), ("InvalidRequest", 400))
    same(refusal(s3.upload_part, Body=b"x", PartNumber=1, ChecksumCRC32="AAAAAA==", **where), ("BadDigest", 400))
    same(refusal(get, key), ("NoSuchKey", 404))
    complete(parts[:1], ChecksumCRC32=checksum("CRC32", data[0]), IfNoneMatch="*")
    same(body(key) == data[0], True)
    upload, parts, _ = multipart(key, [10])
    same(refusal(complete, parts, IfNoneMatch="*"), ("PreconditionFailed", 412))
    s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)
    same(refusal(s3.abort_multipart_upload, Bucket=BUCKET, Key=key, UploadId=upload), ("NoSuchUpload", 404))
    same(refusal(s3.list_parts, Bucket=BUCKET, Key=key, UploadId=upload), ("NoSuchUpload", 404))


def it_copies_ranges_as_parts():
    source = noise(6 * MIB + 5000, "source")
    put("copy-source", source)
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="copied-parts")["UploadId"]
    where = dict(Bucket=BUCKET, Key="copied-parts", UploadId=upload)
    cuts = [(0, 5 * MIB), (5 * MIB + 1, 6 * MIB)]
    parts = []
    for number, (first, end) in enumerate(cuts, 1):
        reply = s3.upload_part_copy(
            PartNumber=number,
            CopySource={"Bucket": BUCKET, "Key": "copy-source"},
            CopySourceRange=f"bytes={first}-{end - 1}",
            **where,
        )["CopyPartResult"]
        same(reply["ETag"], f'"{md5(source[first:end])}"')
        parts.append({"PartNumber": number, "ETag": reply["ETag"]})
    copy = dict(PartNumber=3, CopySource={"Bucket": BUCKET, "Key": "copy-source"}, **where)
    same(refusal(s3.upload_part_copy, CopySourceRange=f"bytes=0-{len(source)}", **copy)[0], "InvalidRange")
    same(refusal(s3.upload_part_copy, CopySourceRange="bytes=0-", **copy)[0], "InvalidArgument")
    same(refusal(s3.upload_part_copy, CopySourceIfMatch='"x"', **copy)[0], "PreconditionFailed")
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)
    same(body("copied-parts") == b"".join(source[first:end] for first, end in cuts), True)


def it_copies_objects_with_and_without_their_description():
    for name, data in [("small", b"tiny"), ("large", noise(2 * MIB, "large"))]:
        put(name, data, ContentType="text/x-source", Metadata={"from": "source"})
        here = {"Bucket": BUCKET, "Key": name}
        kept = s3.copy_object(Bucket=BUCKET, Key=f"{name} kept/ü", CopySource=here)["CopyObjectResult"]
        same(kept["ETag"], f'"{md5(data)}"')
        found = get(f"{name} kept/ü")
        same((found["Body"].read() == data, found["ContentType"], found["Metadata"]), (True, "text/x-source", {"from": "source"}))
        again = {"Bucket": BUCKET, "Key": f"{name} kept/ü"}
        s3.copy_object(Bucket=BUCKET, Key=f"{name}-new", CopySource=again, MetadataDirective="REPLACE", Metadata={"from": "copy"})
        found = get(f"{name}-new")
        same((found["Body"].read() == data, found["ContentType"], found["Metadata"]), (True, "binary/octet-stream", {"from": "copy"}))
        same(refusal(s3.copy_object, Bucket=BUCKET, Key=name, CopySource=here), ("InvalidRequest", 400))
        s3.copy_object(Bucket=BUCKET, Key=name, CopySource=here, MetadataDirective="REPLACE", Metadata={"now": "other"})
        same((get(name)["Metadata"], body(name) == data), ({"now": "other"}, True))
        summed = s3.copy_object(Bucket=BUCKET, Key=f"{name}-sum", CopySource=here, ChecksumAlgorithm="SHA256")
        same(summed["CopyObjectResult"]["ChecksumSHA256"], checksum("SHA256", data))
        same(body(f"{name}-sum", ChecksumMode="ENABLED") == data, True)


def it_judges_a_copy_s_conditions_on_its_source():
    etag = put("cc", b"x")["ETag"]
    now = get("cc")["LastModified"]
    hour = datetime.timedelta(hours=1)
    copy = dict(Bucket=BUCKET, Key="cc-copy", CopySource={"Bucket": BUCKET, "Key": "cc"})
    for refused in [
        dict(CopySourceIfMatch='"x"'),
        dict(CopySourceIfNoneMatch=etag),
        dict(CopySourceIfModifiedSince=now + hour),
        dict(CopySourceIfUnmodifiedSince=now - hour),
    ]:
        same(refusal(s3.copy_object, **copy, **refused), ("PreconditionFailed", 412), refused)
    s3.copy_object(**copy, CopySourceIfMatch=etag, CopySourceIfModifiedSince=now - hour)
    nowhere = dict(copy, CopySource={"Bucket": BUCKET, "Key": "not-there"})
    same(refusal(s3.copy_object, **nowhere), ("NoSuchKey", 404))


LISTED = ["a", "b c", "d/1", "d/2", "d/e/3", "f+g", "h%i", "ü", "z\u0001"]


def list_bucket():
    name = "boto-list"
    s3.create_bucket(Bucket=name)
    for key in LISTED:
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    return name


def it_lists_in_pages_of_any_size():
    name = list_bucket()
    for operation in ["list_objects", "list_objects_v2"]:
        for size in [1, 2, 1000]:
            pages = s3.get_paginator(operation).paginate(Bucket=name, PaginationConfig={"PageSize": size})
            same([entry["Key"] for page in pages for entry in page.get("Contents", [])], sorted(LISTED), operation)
            pages = list(s3.get_paginator(operation).paginate(Bucket=name, Delimiter="/", PaginationConfig={"PageSize": size}))
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
            same(keys, sorted(key for key in LISTED if "/" not in key), operation)
            same([p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])], ["d/"], operation)
    below = s3.list_objects_v2(Bucket=name, Prefix="d/", Delimiter="/")
    same([entry["Key"] for entry in below["Contents"]], ["d/1", "d/2"])
    same([p["Prefix"] for p in below["CommonPrefixes"]], ["d/e/"])
    same(below["KeyCount"], 3)
    behind = s3.list_objects_v2(Bucket=name, StartAfter="d/2", FetchOwner=True)
    same([entry["Key"] for entry in behind["Contents"]][0], "d/e/3")
    same(behind["Contents"][0]["Owner"]["ID"], "root")
    same("Owner" in s3.list_objects_v2(Bucket=name)["Contents"][0], False)
    same([e["Key"] for e in s3.list_objects(Bucket=name, Marker="h%i")["Contents"]], ["z\u0001", "ü"])
    none = s3.list_objects_v2(Bucket=name, MaxKeys=0)
    same((none["KeyCount"], none["IsTruncated"]), (0, False))
    same(refusal(s3.list_objects_v2, Bucket=name, ContinuationToken="!!"), ("InvalidArgument", 400))
    same(refusal(s3.list_objects_v2, Bucket=name, MaxKeys=-1), ("InvalidArgument", 400))
    first = s3.list_objects_v2(Bucket=name)["Contents"][0]
    same((first["Size"], first["ETag"]), (1, f'"{md5(b"a")}"'))


def it_lists_uploads_under_way():
    name = fresh_bucket(s3, "boto-uploads")
    begun = {key: s3.create_multipart_upload(Bucket=name, Key=key)["UploadId"] for key in ["a", "d/1", "d/2", "e"]}
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=name, PaginationConfig={"PageSize": 1})
    same({u["Key"]: u["UploadId"] for page in pages for u in page.get("Uploads", [])}, begun)
    rolled = s3.list_multipart_uploads(Bucket=name, Delimiter="/")
    same([p["Prefix"] for p in rolled["CommonPrefixes"]], ["d/"])
    same([u["Key"] for u in rolled["Uploads"]], ["a", "e"])
    s3.put_object(Bucket=name, Key="k", Body=b"x")
    same(refusal(s3.delete_bucket, Bucket=name), ("BucketNotEmpty", 409))
    same(len(s3.list_multipart_uploads(Bucket=name)["Uploads"]), 4, "a refused removal touches nothing")
    s3.delete_object(Bucket=name, Key="k")
    s3.abort_multipart_upload(Bucket=name, Key="a", UploadId=begun["a"])
    # Uploads that nobody completes keep no bucket alive.
    s3.delete_bucket(Bucket=name)


def it_deletes_many_at_once():
    name = fresh_bucket(s3, "boto-delete")
    keys = [f"k{number:03}" for number in range(60)] + ["<&>", "ü"]
    for key in keys:
        s3.put_object(Bucket=name, Key=key, Body=b"")
    asked = [{"Key": key} for key in keys[:30]] + [{"Key": "never-there"}]
    reply = s3.delete_objects(Bucket=name, Delete={"Objects": asked})
    same(sorted(entry["Key"] for entry in reply["Deleted"]), sorted(entry["Key"] for entry in asked))
    etag = md5(b"")
    asked = [{"Key": key} for key in keys[31:]] + [{"Key": keys[30], "ETag": '"no"'}]
    reply = s3.delete_objects(Bucket=name, Delete={"Objects": asked, "Quiet": True})
    same(reply.get("Deleted"), None)
    same([(entry["Key"], entry["Code"]) for entry in reply["Errors"]], [(keys[30], "PreconditionFailed")])
    s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": keys[30], "ETag": f'"{etag}"'}]})
    same(s3.list_objects_v2(Bucket=name)["KeyCount"], 0)
    too_many = [{"Key": f"{number}"} for number in range(1001)]
    same(refusal(s3.delete_objects, Bucket=name, Delete={"Objects": too_many}), ("MalformedXML", 400))
    s3.delete_bucket(Bucket=name)


def fetch(url, method="GET", data=None, headers={}):
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, reply.read(), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def it_serves_presigned_urls_until_they_expire():
    put("presigned", b"hello", ContentType="text/plain")
    where = {"Bucket": BUCKET, "Key": "presigned"}
    url = s3.generate_presigned_url("get_object", Params=where)
    same(fetch(url)[:2], (200, b"hello"))
    same(fetch(url, headers={"Range": "bytes=1-2"})[:2], (206, b"el"))
    overridden = dict(where, ResponseContentDisposition="attachment", ResponseContentType="a/b")
    for operation, method in [("get_object", "GET"), ("head_object", "HEAD")]:
        parameters = overridden if method == "GET" else where
        status, _, headers = fetch(s3.generate_presigned_url(operation, Params=parameters), method)
        same(status, 200)
        if method == "GET":
            same((headers["content-disposition"], headers["content-type"]), ("attachment", "a/b"))
    upload = s3.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "presigned put"})
    same(fetch(upload, "PUT", b"by url")[0], 200)
    same(body("presigned put"), b"by url")
    # What was not signed cannot be added, and what was signed cannot be changed.
    status, text, _ = fetch(upload, "PUT", b"by url", {"x-amz-meta-late": "v"})
    same((status, b"AccessDenied" in text), (403, True))
    status, text, _ = fetch(url.replace("presigned", "described"))
    same((status, b"SignatureDoesNotMatch" in text), (403, True))
    status, text, _ = fetch(url + "&response-content-type=text%2Fhtml")
    same((status, b"SignatureDoesNotMatch" in text), (403, True))
    brief = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=1)
    time.sleep(2.1)
    status, text, _ = fetch(brief)
    same((status, b"Request has expired" in text), (403, True))
    long = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=604801)
    status, text, _ = fetch(long)
    same((status, b"AuthorizationQueryParametersError" in text), (400, True))


def it_keeps_hostile_keys_as_they_are():
    name = fresh_bucket(s3, "boto-hostile")
    keys = [
        "../../etc/passwd", "..", "./a", "a//b", "//", "/lead", "trail/", " ", " a ", "a\nb", "\t", "\x7f",
        "%2e%2e", "%00", "?q=1&r", "#", "a+b", "ключ/鍵/🔑", "\ufeff", "k" * 1024, "é" * 512, "<>&'\"", "\\..\\", "\ud7ff",
    ]
    for key in keys:
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    for key in keys:
        same(s3.get_object(Bucket=name, Key=key)["Body"].read(), key.encode(), key)
    listed = [e["Key"] for p in s3.get_paginator("list_objects_v2").paginate(Bucket=name) for e in p["Contents"]]
    same(listed, sorted(keys, key=lambda key: key.encode()))
    same(refusal(s3.put_object, Bucket=name, Key="k" * 1025, Body=b""), ("KeyTooLongError", 400))
    same(refusal(s3.put_object, Bucket=name, Key="a\0b", Body=b""), ("InvalidURI", 400))
    reply = s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": key} for key in keys if key.isprintable()]})
    same(reply.get("Errors"), None)
    for key in keys:
        s3.delete_object(Bucket=name, Key=key)
    s3.delete_bucket(Bucket=name)


def it_moves_large_bodies_by_the_transfer_manager():
    data = noise(24 * MIB + 77, "transfer")
    parallel = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=6 * MIB, max_concurrency=4)
    s3.upload_fileobj(io.BytesIO(data), BUCKET, "transfer", Config=parallel, ExtraArgs={"ContentType": "a/b"})
    got = io.BytesIO()
    s3.download_fileobj(BUCKET, "transfer", got, Config=parallel)
    same(got.getvalue() == data, True)
    s3.copy({"Bucket": BUCKET, "Key": "transfer"}, BUCKET, "transfer-copy", Config=parallel)
    found = s3.head_object(Bucket=BUCKET, Key="transfer-copy")
    same((found["ContentLength"], found["ContentType"]), (len(data), "a/b"))
    same(body("transfer-copy") == data, True)


def it_refuses_by_name_what_it_does_not_do():
    for named, code in [
        (dict(ACL="public"), "InvalidArgument"),
        (dict(StorageClass="GLACIER"), "InvalidStorageClass"),
        (dict(ServerSideEncryption="AES256"), "NotImplemented"),
        (dict(ServerSideEncryption="aws:kms"), "NotImplemented"),
        (dict(SSECustomerAlgorithm="AES256", SSECustomerKey="k" * 32), "NotImplemented"),
        (dict(WebsiteRedirectLocation="/x"), "NotImplemented"),
        (dict(Tagging="a=1&a=2"), "InvalidTag"),
        (dict(ObjectLockLegalHoldStatus="ON"), "InvalidRequest"),
        (dict(ExpectedBucketOwner="123456789012"), "AccessDenied"),
    ]:
        same(refusal(put, "unserved", b"x", **named)[0], code, named)
    same(refusal(get, "unserved"), ("NoSuchKey", 404))
    put("served", b"x", ACL="private", StorageClass="STANDARD")
    same(refusal(get, "served", VersionId="1"), ("InvalidArgument", 400))
    same(refusal(s3.get_bucket_policy, Bucket=BUCKET), ("NoSuchBucketPolicy", 404))
    same(refusal(s3.get_bucket_website, Bucket=BUCKET)[1], 501)
    same(refusal(s3.create_bucket, Bucket="api")[0], "InvalidBucketName")


def it_names_the_request_in_every_reply():
    replied = s3.head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]
    same(len(replied), 32)
    try:
        get("not-there")
    except ClientError as error:
        reply = error.response
        same(reply["Error"]["Resource"], f"/{BUCKET}/not-there")
        # botocore takes this one from the document.
        named = reply["ResponseMetadata"]["RequestId"]
        same(named, reply["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"])


run_claims(sys.modules[__name__])
