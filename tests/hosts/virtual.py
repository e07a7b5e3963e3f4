"""boto3 and aws where each bucket is a host: bucket.s3.infall.test."""

import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
SCHEME, BASE = ENDPOINT.split("://")
STYLE = Config(s3={"addressing_style": "virtual"}, retries={"max_attempts": 1})
s3 = boto3.client("s3", config=STYLE)
asked = []
s3.meta.events.register("before-send.s3", lambda request, **_: asked.append(request.url))


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return error
    raise AssertionError(f"{call.__name__} was not refused: {arguments}")


# Every verb goes to the bucket's host.
s3.create_bucket(Bucket="images", CreateBucketConfiguration={"LocationConstraint": os.environ["AWS_DEFAULT_REGION"]})
for key, body in [("a b/ü.txt", b"one"), ("cdmi/x", b"two"), ("api/v1/volumes", b"three"), ("images/images", b"four")]:
    s3.put_object(Bucket="images", Key=key, Body=body)
    assert s3.get_object(Bucket="images", Key=key)["Body"].read() == body
listed = [entry["Key"] for entry in s3.list_objects_v2(Bucket="images")["Contents"]]
assert listed == ["a b/ü.txt", "api/v1/volumes", "cdmi/x", "images/images"], listed
s3.copy_object(Bucket="images", Key="copy", CopySource={"Bucket": "images", "Key": "cdmi/x"})
upload = s3.create_multipart_upload(Bucket="images", Key="parts")["UploadId"]
part = s3.upload_part(Bucket="images", Key="parts", UploadId=upload, PartNumber=1, Body=b"p")
s3.complete_multipart_upload(
    Bucket="images", Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
)
gone = s3.delete_objects(Bucket="images", Delete={"Objects": [{"Key": "parts"}, {"Key": "copy"}]})
assert len(gone["Deleted"]) == 2, gone
assert all(url.startswith(f"{SCHEME}://images.{BASE}/") for url in asked), asked

# Errors name bucket and key as in path style; what is not there is not found.
refused("NoSuchKey", s3.get_object, Bucket="images", Key="nothing")
refused("NoSuchBucket", s3.list_objects_v2, Bucket="nobody")

# Presigned, and posted by a form: the place is the bucket's host.
url = s3.generate_presigned_url("get_object", Params={"Bucket": "images", "Key": "cdmi/x"})
assert f"://images.{BASE}/cdmi/x?" in url, url
assert urllib.request.urlopen(url).read() == b"two"
try:
    urllib.request.urlopen(url.replace("images.s3", "other.s3"))
    raise AssertionError("a signature for one bucket's host opened another's")
except urllib.error.HTTPError as error:
    assert error.code == 403, error
form = s3.generate_presigned_post("images", "posted", Fields={"success_action_status": "201"}, Conditions=[["eq", "$success_action_status", "201"]])
mark = uuid.uuid4().hex
fields = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in form["fields"].items())
body = f'{fields}--{mark}\r\nContent-Disposition: form-data; name="file"\r\n\r\nform\r\n--{mark}--\r\n'.encode()
request = urllib.request.Request(form["url"], body, {"Content-Type": f"multipart/form-data; boundary={mark}"})
answer = urllib.request.urlopen(request)
assert answer.status == 201 and answer.headers["Location"].endswith(f"://images.{BASE}/posted"), answer.headers["Location"]

# CORS: the rules are those of the host's bucket.
rule = {"AllowedOrigins": ["https://app.example"], "AllowedMethods": ["GET"]}
s3.put_bucket_cors(Bucket="images", CORSConfiguration={"CORSRules": [rule]})
ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
preflight = urllib.request.Request(f"{SCHEME}://images.{BASE}/cdmi/x", headers=ask, method="OPTIONS")
assert urllib.request.urlopen(preflight).headers["Access-Control-Allow-Origin"] == "https://app.example"

# Names kept back for other doors make no bucket here either; case does not count in a host.
refused("InvalidBucketName", s3.create_bucket, Bucket="cdmi", CreateBucketConfiguration={"LocationConstraint": os.environ["AWS_DEFAULT_REGION"]})
shouted = urllib.request.Request(url, headers={"Host": f"images.{BASE}"})
assert urllib.request.urlopen(shouted).read() == b"two"

# The domain itself and the address speak path style, to the same buckets, and the other doors.
path = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
assert path.get_object(Bucket="images", Key="cdmi/x")["Body"].read() == b"two"
assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["images"]
try:
    urllib.request.urlopen(f"{SCHEME}://{BASE}/cdmi/")
    raise AssertionError("CDMI let a stranger in")
except urllib.error.HTTPError as error:
    assert "xml" not in (error.headers["Content-Type"] or ""), error.headers

# aws, told to do so in its configuration.
home = pathlib.Path(tempfile.mkdtemp(dir=os.environ["HOME"]))
(home / "config").write_text("[default]\ns3 =\n    addressing_style = virtual\n    multipart_threshold = 6MB\n    multipart_chunksize = 6MB\n")
file = home / "file"
file.write_bytes(os.urandom(13 << 20))
aws = pathlib.Path(sys.executable).with_name("aws")
environment = {**os.environ, "AWS_CONFIG_FILE": str(home / "config")}


def run(*words):
    ran = subprocess.run([aws, "s3", *map(str, words)], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


run("cp", file, "s3://images/big/file")
run("cp", "s3://images/big/file", home / "back")
assert (home / "back").read_bytes() == file.read_bytes()
assert "big/" in run("ls", "s3://images")
run("rb", "--force", "s3://images")
print("ok virtual hosts")
