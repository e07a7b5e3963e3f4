"""What several projects, strangers and browsers must see: policies, lists, versions, locks, forms."""

import datetime
import http.client
import json
import urllib.parse
import urllib.request
import xml.etree.ElementTree as xml

from botocore import UNSIGNED
from door import *

USERS = json.loads(os.environ["S3_USERS"])
HOST = ENDPOINT.removeprefix("http://")


def of(name, **options):
    return client(USERS[name]["id"], USERS[name]["secret"], **options)


owner, stranger, small = of("owner"), of("stranger"), of("small")
nobody = client(signature_version=UNSIGNED)


def policy(bucket, *statements):
    """A bucket's policy: each statement is (effect, principal, actions, resource behind the bucket, conditions)."""
    listed = []
    for effect, who, actions, behind, conditions in statements:
        one = {"Effect": effect, "Principal": who, "Action": actions, "Resource": f"arn:aws:s3:::{bucket}{behind}"}
        listed.append(one | ({"Condition": conditions} if conditions else {}))
    return json.dumps({"Version": "2012-10-17", "Statement": listed})


def allow(bucket, *statements):
    owner.put_bucket_policy(Bucket=bucket, Policy=policy(bucket, *statements))


EVERYBODY = {"AWS": "*"}


def it_shows_each_project_its_own_buckets_and_names_taken_by_others():
    fresh_bucket(owner, "own-one")
    assert "own-one" in [b["Name"] for b in owner.list_buckets()["Buckets"]]
    assert "own-one" not in [b["Name"] for b in stranger.list_buckets()["Buckets"]]
    same(owner.list_buckets()["Owner"]["ID"], USERS["owner"]["project"])
    same(refusal(stranger.create_bucket, Bucket="own-one"), ("BucketAlreadyExists", 409))
    same(refusal(owner.create_bucket, Bucket="own-one"), ("BucketAlreadyOwnedByYou", 409))
    for who in [stranger, nobody]:
        same(refusal(who.list_objects_v2, Bucket="own-one")[1], 403)
        same(refusal(who.get_object, Bucket="own-one", Key="nothing"), ("AccessDenied", 403))
        same(refusal(who.put_object, Bucket="own-one", Key="k", Body=b"x"), ("AccessDenied", 403))
        same(refusal(who.get_object, Bucket="never-was", Key="k"), ("NoSuchBucket", 404))
    owner.head_bucket(Bucket="own-one", ExpectedBucketOwner=USERS["owner"]["project"])
    same(refusal(owner.head_bucket, Bucket="own-one", ExpectedBucketOwner="another")[1], 403)


def it_follows_a_bucket_s_policy_and_deny_wins():
    name = fresh_bucket(owner, "own-policy")
    for key in ["open/a", "closed/a"]:
        owner.put_object(Bucket=name, Key=key, Body=b"x")
    allow(
        name,
        ("Allow", EVERYBODY, "s3:GetObject", "/*", None),
        ("Deny", EVERYBODY, "s3:GetObject", "/closed/*", None),
        ("Allow", EVERYBODY, "s3:ListBucket", "", {"StringLike": {"s3:prefix": "open/*"}}),
    )
    for who in [stranger, nobody]:
        same(who.get_object(Bucket=name, Key="open/a")["Body"].read(), b"x")
        same(refusal(who.get_object, Bucket=name, Key="closed/a"), ("AccessDenied", 403))
        same(who.list_objects_v2(Bucket=name, Prefix="open/")["KeyCount"], 1)
        same(refusal(who.list_objects_v2, Bucket=name), ("AccessDenied", 403))
        # A missing key is told to those who may list it, and to nobody else.
        same(refusal(who.get_object, Bucket=name, Key="open/none"), ("NoSuchKey", 404))
        same(refusal(who.get_object, Bucket=name, Key="other/none"), ("AccessDenied", 403))
    same(refusal(owner.get_object, Bucket=name, Key="closed/a"), ("AccessDenied", 403))
    same(owner.get_bucket_policy_status(Bucket=name)["PolicyStatus"]["IsPublic"], True)
    owner.put_public_access_block(
        Bucket=name, PublicAccessBlockConfiguration={"BlockPublicPolicy": True, "RestrictPublicBuckets": True}
    )
    same(refusal(nobody.get_object, Bucket=name, Key="open/a"), ("AccessDenied", 403))
    same(refusal(allow, name, ("Allow", "*", "s3:GetObject", "/*", None)), ("AccessDenied", 403))
    owner.delete_bucket_policy(Bucket=name)
    same(refusal(owner.get_bucket_policy, Bucket=name), ("NoSuchBucketPolicy", 404))


def it_refuses_policies_that_say_nothing_sound():
    name = fresh_bucket(owner, "own-malformed")
    good = policy(name, ("Allow", EVERYBODY, "s3:GetObject", "/*", None))
    for bad in [
        "",
        "{",
        "[]",
        "{}",
        good[:-1],
        good.replace("GetObject", "GetObject\u0000"),
        good.replace(name, "another-bucket"),
        good.replace("Allow", "Perhaps"),
        good.replace('"Effect"', '"Effect":"Deny","Effect"'),
        "[" * 100000,
        good.replace("Version", "x" * 30000),
    ]:
        code, status = refusal(owner.put_bucket_policy, Bucket=name, Policy=bad)
        assert status == 400 and code in ("MalformedPolicy", "MalformedXML", "InvalidRequest"), (bad[:80], code)
    same(refusal(owner.get_bucket_policy, Bucket=name), ("NoSuchBucketPolicy", 404))


def it_asks_for_each_action_that_a_request_has():
    name, other = fresh_bucket(owner, "own-actions"), fresh_bucket(owner, "own-source")
    owner.put_object(Bucket=other, Key="k", Body=b"x")
    allow(name, ("Allow", EVERYBODY, "s3:PutObject", "/*", None))
    stranger.put_object(Bucket=name, Key="mine", Body=b"x")
    put = dict(Bucket=name, Key="k", Body=b"x")
    same(refusal(stranger.put_object, **put, Tagging="a=b"), ("AccessDenied", 403))
    same(refusal(stranger.put_object, **put, ACL="public-read"), ("AccessDenied", 403))
    # A copy needs its source too, of whatever bucket.
    copy = dict(Bucket=name, Key="k", CopySource=f"{other}/k")
    same(refusal(stranger.copy_object, **copy), ("AccessDenied", 403))
    upload = stranger.create_multipart_upload(Bucket=name, Key="k")["UploadId"]
    same(
        refusal(stranger.upload_part_copy, **copy, UploadId=upload, PartNumber=1),
        ("AccessDenied", 403),
    )
    allow(other, ("Allow", EVERYBODY, "s3:GetObject", "/*", None))
    stranger.copy_object(**copy)
    # Deletes are asked per key.
    owner.put_object(Bucket=name, Key="keep", Body=b"x")
    allow(name, ("Allow", EVERYBODY, "s3:DeleteObject", "/k", None))
    done = stranger.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "k"}, {"Key": "keep"}]})
    same([one["Key"] for one in done["Deleted"]], ["k"])
    same([(one["Key"], one["Code"]) for one in done["Errors"]], [("keep", "AccessDenied")])


def it_judges_conditions_on_tags_of_the_request_and_of_the_object():
    name = fresh_bucket(owner, "own-tags")
    owner.put_object(Bucket=name, Key="public", Body=b"x", Tagging="security=public")
    owner.put_object(Bucket=name, Key="private", Body=b"x", Tagging="security=private")
    allow(
        name,
        ("Allow", EVERYBODY, "s3:GetObject", "/*", {"StringEquals": {"s3:ExistingObjectTag/security": "public"}}),
        ("Allow", EVERYBODY, "s3:PutObjectTagging", "/*", {"StringEquals": {"s3:RequestObjectTag/a": "b"}}),
    )
    same(stranger.get_object(Bucket=name, Key="public")["TagCount"], 1)
    same(refusal(stranger.get_object, Bucket=name, Key="private"), ("AccessDenied", 403))
    put = lambda value: stranger.put_object_tagging(
        Bucket=name, Key="public", Tagging={"TagSet": [{"Key": "a", "Value": value}]}
    )
    same(refusal(put, "c"), ("AccessDenied", 403))
    put("b")
    same(owner.get_object_tagging(Bucket=name, Key="public")["TagSet"], [{"Key": "a", "Value": "b"}])
    owner.delete_object_tagging(Bucket=name, Key="public")
    same(owner.get_object_tagging(Bucket=name, Key="public")["TagSet"], [])


def it_honours_lists_until_ownership_forbids_them():
    name = fresh_bucket(owner, "own-lists")
    owner.put_object(Bucket=name, Key="public", Body=b"x", ACL="public-read")
    owner.put_object(Bucket=name, Key="private", Body=b"x")
    same(nobody.get_object(Bucket=name, Key="public")["Body"].read(), b"x")
    same(refusal(nobody.get_object, Bucket=name, Key="private"), ("AccessDenied", 403))
    grants = owner.get_object_acl(Bucket=name, Key="public")["Grants"]
    same(sorted(g["Permission"] for g in grants), ["FULL_CONTROL", "READ"])
    owner.put_public_access_block(
        Bucket=name, PublicAccessBlockConfiguration={"IgnorePublicAcls": True, "BlockPublicAcls": True}
    )
    same(refusal(nobody.get_object, Bucket=name, Key="public"), ("AccessDenied", 403))
    same(refusal(owner.put_bucket_acl, Bucket=name, ACL="public-read"), ("AccessDenied", 403))
    owner.delete_public_access_block(Bucket=name)
    # An explicit deny wins over any list.
    allow(name, ("Deny", EVERYBODY, "s3:GetObject", "/public", None))
    same(refusal(nobody.get_object, Bucket=name, Key="public"), ("AccessDenied", 403))
    owner.delete_bucket_policy(Bucket=name)
    enforced = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    owner.put_bucket_ownership_controls(Bucket=name, OwnershipControls=enforced)
    same(refusal(nobody.get_object, Bucket=name, Key="public"), ("AccessDenied", 403))
    same(
        refusal(owner.put_object_acl, Bucket=name, Key="public", ACL="public-read")[0],
        "AccessControlListNotSupported",
    )


def it_keeps_versions_and_hides_what_is_deleted():
    name = fresh_bucket(owner, "own-versions")
    owner.put_object(Bucket=name, Key="k", Body=b"before")
    owner.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    ids = [owner.put_object(Bucket=name, Key="k", Body=bytes([n]))["VersionId"] for n in (1, 2)]
    marker = owner.delete_object(Bucket=name, Key="k")
    same(marker["DeleteMarker"], True)
    same(refusal(owner.get_object, Bucket=name, Key="k"), ("NoSuchKey", 404))
    same(refusal(owner.get_object, Bucket=name, Key="k", VersionId=marker["VersionId"])[1], 405)
    same(owner.get_object(Bucket=name, Key="k", VersionId=ids[0])["Body"].read(), b"\1")
    same(owner.get_object(Bucket=name, Key="k", VersionId="null")["Body"].read(), b"before")
    same(refusal(owner.get_object, Bucket=name, Key="k", VersionId="nonsense")[1] in (400, 404), True)
    pages = owner.get_paginator("list_object_versions").paginate(Bucket=name, PaginationConfig={"PageSize": 1})
    listed = [one for page in pages for one in page.get("Versions", []) + page.get("DeleteMarkers", [])]
    same([one["VersionId"] for one in listed], [marker["VersionId"], ids[1], ids[0], "null"])
    same([one["IsLatest"] for one in listed], [True, False, False, False])
    # Which version, is an action of its own.
    allow(name, ("Allow", EVERYBODY, "s3:GetObject", "/*", None))
    same(refusal(stranger.get_object, Bucket=name, Key="k", VersionId=ids[0]), ("AccessDenied", 403))
    copied = owner.copy_object(Bucket=name, Key="k2", CopySource=f"{name}/k?versionId={ids[0]}")
    same(copied["CopySourceVersionId"], ids[0])
    owner.delete_object(Bucket=name, Key="k", VersionId=marker["VersionId"])
    same(owner.get_object(Bucket=name, Key="k")["Body"].read(), b"\2")


def it_removes_nothing_that_is_locked():
    name = "own-locks"
    owner.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True, CreateBucketConfiguration={"LocationConstraint": REGION})
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    put = owner.put_object(
        Bucket=name, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until
    )
    version = dict(Bucket=name, Key="k", VersionId=put["VersionId"])
    same(owner.head_object(**version)["ObjectLockMode"], "GOVERNANCE")
    same(refusal(owner.delete_object, **version), ("AccessDenied", 403))
    owner.put_object_legal_hold(**version, LegalHold={"Status": "ON"})
    same(refusal(owner.delete_object, **version, BypassGovernanceRetention=True), ("AccessDenied", 403))
    owner.put_object_legal_hold(**version, LegalHold={"Status": "OFF"})
    allow(name, ("Allow", EVERYBODY, ["s3:DeleteObject", "s3:DeleteObjectVersion"], "/*", None))
    # The bypass is a right of its own.
    same(refusal(stranger.delete_object, **version, BypassGovernanceRetention=True), ("AccessDenied", 403))
    owner.delete_object(**version, BypassGovernanceRetention=True)
    suspend = dict(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    same(refusal(owner.put_bucket_versioning, **suspend), ("InvalidBucketState", 409))


def it_tells_attributes_and_parts_of_an_object():
    name = fresh_bucket(owner, "own-attributes")
    owner.put_object(Bucket=name, Key="k", Body=b"x" * 100, ChecksumAlgorithm="SHA256")
    wanted = ["ETag", "Checksum", "ObjectSize", "StorageClass"]
    told = owner.get_object_attributes(Bucket=name, Key="k", ObjectAttributes=wanted)
    same((told["ETag"], told["ObjectSize"], told["StorageClass"]), (md5(b"x" * 100), 100, "STANDARD"))
    same(told["Checksum"]["ChecksumSHA256"], base64.b64encode(hashlib.sha256(b"x" * 100).digest()).decode())
    upload = owner.create_multipart_upload(Bucket=name, Key="m", ChecksumAlgorithm="CRC32")["UploadId"]
    named = dict(Bucket=name, Key="m", UploadId=upload)
    parts = []
    for number, data in [(1, b"a" * (5 << 20)), (2, b"b")]:
        done = owner.upload_part(**named, PartNumber=number, Body=data, ChecksumAlgorithm="CRC32")
        parts.append({"PartNumber": number, "ETag": done["ETag"], "ChecksumCRC32": done["ChecksumCRC32"]})
    owner.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    told = owner.get_object_attributes(Bucket=name, Key="m", ObjectAttributes=["ObjectParts"], MaxParts=1)
    same(told["ObjectParts"]["TotalPartsCount"], 2)
    same(told["ObjectParts"]["IsTruncated"], True)
    same(told["ObjectParts"]["Parts"][0]["ChecksumCRC32"], parts[0]["ChecksumCRC32"])


def raw(method, path, headers=None, body=None):
    connection = http.client.HTTPConnection(HOST, timeout=20)
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    return reply, reply.read()


def it_answers_preflights_before_anybody_shows_a_key():
    name = fresh_bucket(owner, "own-cors")
    ask = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "PUT"}
    same(raw("OPTIONS", f"/{name}/k", ask)[0].status, 403)
    rule = {"AllowedOrigins": ["https://*.example.org"], "AllowedMethods": ["PUT", "GET"], "AllowedHeaders": ["*"]}
    owner.put_bucket_cors(Bucket=name, CORSConfiguration={"CORSRules": [rule | {"ExposeHeaders": ["ETag"]}]})
    reply, _ = raw("OPTIONS", f"/{name}/k", ask | {"Access-Control-Request-Headers": "x-amz-date"})
    same((reply.status, reply.getheader("access-control-allow-origin")), (200, "https://app.example.org"))
    same(raw("OPTIONS", f"/{name}/k", ask | {"Origin": "https://example.net"})[0].status, 403)
    # A refusal, too, is readable for the script that is told it.
    reply, _ = raw("GET", f"/{name}/k", {"Origin": "https://app.example.org"})
    same((reply.status, reply.getheader("access-control-allow-origin")), (403, "https://app.example.org"))
    owner.delete_bucket_cors(Bucket=name)
    same(refusal(owner.get_bucket_cors, Bucket=name), ("NoSuchCORSConfiguration", 404))


def post(url, fields, data, name="file"):
    boundary = "b0undary"
    lines = []
    for field, value in fields.items():
        lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode())
    lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="f.txt"\r\n\r\n'.encode())
    body = b"".join(lines) + data + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    reply, told = raw("POST", urllib.parse.urlparse(url).path, kind, body)
    code = xml.fromstring(told).findtext("Code") if told and reply.status >= 400 else None
    return reply.status, code


def it_takes_forms_that_their_policy_allows():
    name = fresh_bucket(owner, "own-forms")
    for size in [0, 5 << 20]:
        form = owner.generate_presigned_post(name, "in/${filename}", Conditions=[["content-length-range", 0, 6 << 20]])
        same(post(form["url"], form["fields"], b"x" * size), (204, None))
        same(owner.head_object(Bucket=name, Key="in/f.txt")["ContentLength"], size)
    form = owner.generate_presigned_post(name, "k", Conditions=[["content-length-range", 2, 4]])
    same(post(form["url"], form["fields"], b"12345"), (400, "EntityTooLarge"))
    same(post(form["url"], form["fields"], b"1"), (400, "EntityTooSmall"))
    same(post(form["url"], form["fields"] | {"acl": "public-read"}, b"123"), (403, "AccessDenied"))
    same(post(form["url"], form["fields"] | {"key": "other"}, b"123"), (403, "AccessDenied"))
    same(post(form["url"], form["fields"] | {"x-amz-signature": "0" * 64}, b"123"), (403, "SignatureDoesNotMatch"))
    same(post(form["url"], {"key": "k"}, b"123"), (403, "AccessDenied"))
    same(post(form["url"], form["fields"], b"123", name="other")[0], 400)
    expired = owner.generate_presigned_post(name, "k", ExpiresIn=-10)
    same(post(expired["url"], expired["fields"], b"123"), (403, "AccessDenied"))
    # A stranger's signature is good, and gives them nothing here.
    theirs = stranger.generate_presigned_post(name, "k")
    same(post(theirs["url"], theirs["fields"], b"123"), (403, "AccessDenied"))
    same([one["Key"] for one in owner.list_objects_v2(Bucket=name)["Contents"]], ["in/f.txt"])


def it_bounds_what_a_form_may_make_it_hold():
    name = fresh_bucket(owner, "own-bounds")
    url = f"{ENDPOINT}/{name}"
    same(post(url, {"key": "k", "x": "y" * (1 << 20)}, b"")[0], 400)
    same(post(url, {f"f{n}": "v" for n in range(200)}, b"")[0], 400)
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    endless = b"--b\r\nContent-Disposition: " + b"x" * (8 << 20)
    reply, _ = raw("POST", f"/{name}", kind, endless)
    same(reply.status, 400)
    same(raw("POST", f"/{name}", kind, b"--b--\r\n")[0].status, 400)
    same(raw("POST", f"/{name}", {"Content-Type": "multipart/form-data"}, b"x")[0].status, 400)


def it_refuses_xml_that_is_a_weapon():
    name = fresh_bucket(owner, "own-xml")
    allow(name, ("Allow", EVERYBODY, "s3:*", "", None), ("Allow", EVERYBODY, "s3:*", "/*", None))
    owner.put_object(Bucket=name, Key="k", Body=b"x")
    laughs = "<!DOCTYPE x [" + '<!ENTITY a0 "ha">'
    for level in range(1, 30):
        laughs += f'<!ENTITY a{level} "&a{level - 1};&a{level - 1};">'
    laughs += "]>"
    outside = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    tagging = "<Tagging><TagSet><Tag><Key>{}</Key><Value>v</Value></Tag></TagSet></Tagging>"
    bad = [
        laughs + tagging.format("&a29;"),
        outside + tagging.format("&e;"),
        tagging.format("&undefined;"),
        tagging.format("k")[:-3],
        "<Tagging>" * 100000,
        "<?xml version='1.0'?><Delete/>",
        "\x00\x01",
        "",
    ]
    began = time.monotonic()
    for text in bad:
        data = text.encode()
        reply, told = raw("PUT", f"/{name}/k?tagging", {"Content-MD5": base64.b64encode(hashlib.md5(data).digest()).decode()}, data)
        assert 400 <= reply.status < 500, (text[:60], reply.status)
        assert b"root:" not in told
    large = b"<Tagging>" + b" " * (6 << 20) + b"</Tagging>"
    reply, told = raw("PUT", f"/{name}/k?tagging", {}, large)
    assert b"MaxMessageLengthExceeded" in told, told
    assert time.monotonic() - began < 20
    same(owner.get_object_tagging(Bucket=name, Key="k")["TagSet"], [])


def it_refuses_what_a_project_s_quota_has_no_room_for():
    name = fresh_bucket(small, "own-quota")
    small.put_object(Bucket=name, Key="a", Body=b"x" * (600 << 10))
    same(refusal(small.put_object, Bucket=name, Key="b", Body=b"x" * (600 << 10)), ("QuotaExceeded", 403))
    small.delete_object(Bucket=name, Key="a")
    small.put_object(Bucket=name, Key="b", Body=b"x" * (600 << 10))


def it_takes_session_tokens_and_refuses_forged_ones():
    session = USERS["session"]
    def with_token(token):
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        return boto3.client(
            "s3", endpoint_url=ENDPOINT, region_name=REGION, aws_access_key_id=session["id"],
            aws_secret_access_key=session["secret"], aws_session_token=token, config=config,
        )
    mine = with_token(session["token"])
    name = fresh_bucket(mine, "own-session")
    mine.put_object(Bucket=name, Key="k", Body=b"x")
    url = mine.generate_presigned_url("get_object", Params={"Bucket": name, "Key": "k"})
    same(urllib.request.urlopen(url).read(), b"x")
    same(refusal(with_token("forged").list_buckets), ("InvalidToken", 400))
    same(refusal(with_token(None).list_buckets), ("InvalidToken", 400))
    parsed = urllib.parse.urlparse(url.replace("X-Amz-Security-Token=", "X-Amz-Security-Token=forged"))
    assert raw("GET", f"{parsed.path}?{parsed.query}")[0].status in (400, 403)


run_claims(sys.modules[__name__])
