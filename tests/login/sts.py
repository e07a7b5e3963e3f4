"""STS as boto3 speaks it: whom a token lets in, and whom not."""
import json, os, sys, time, urllib.parse, urllib.request
import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

issuer, role, other_role = sys.argv[1:4]
endpoint = os.environ["AWS_ENDPOINT_URL"]
options = dict(endpoint_url=endpoint, region_name="infall")
anonymous = boto3.client("sts", config=Config(signature_version=UNSIGNED), **options)
root = boto3.client("sts", **options)
member = ["urn:mace:egi.eu:group:vo.example.org:role=member#aai.egi.eu"]


def sign(by="issuer", kid=None, **claims):
    claims.setdefault("sub", "alice")
    claims.setdefault("eduperson_entitlement", member)
    query = {"claims": json.dumps(claims), "by": by} | ({"kid": kid} if kid else {})
    with urllib.request.urlopen(f"{issuer}/test/sign?{urllib.parse.urlencode(query)}") as answer:
        return answer.read().decode()


def assume(token, arn=role, **more):
    return anonymous.assume_role_with_web_identity(
        RoleArn=arn, RoleSessionName="test", WebIdentityToken=token, **more)


def refused(code, call, *args, **more):
    try:
        call(*args, **more)
    except ClientError as error:
        found = error.response["Error"]["Code"]
        assert found == code, f"{found}: {error.response['Error']['Message']}, expected {code}"
        assert "eyJ" not in str(error), "a token in an error"
        return
    raise AssertionError(f"not refused, expected {code}")


good = sign()
session = assume(good, DurationSeconds=900)
assert session["SubjectFromWebIdentityToken"] == "alice" and session["Provider"] == issuer
keys = session["Credentials"]
left = keys["Expiration"].timestamp() - time.time()
assert 800 < left <= 901, left
mine = dict(aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"], **options)
whole = boto3.client("sts", aws_session_token=keys["SessionToken"], **mine)
assert whole.get_caller_identity()["Arn"] == session["AssumedRoleUser"]["Arn"]
s3 = boto3.client("s3", aws_session_token=keys["SessionToken"], **mine)
assert s3.get_object(Bucket="shared", Key="hello")["Body"].read() == b"hello"
refused("AccessDenied", s3.put_object, Bucket="shared", Key="mine", Body=b"x")
refused("InvalidClientTokenId", boto3.client("sts", **mine).get_caller_identity)
wrong = boto3.client("s3", aws_session_token="x" * 40, **mine)
refused("InvalidToken", wrong.get_object, Bucket="shared", Key="hello")

refused("InvalidIdentityToken", assume, good)  # used before
refused("ExpiredTokenException", assume, sign(exp=int(time.time()) - 600))
refused("InvalidIdentityToken", assume, sign(nbf=int(time.time()) + 600))
refused("InvalidIdentityToken", assume, sign(aud="somebody-else"))
refused("InvalidIdentityToken", assume, sign(iss="https://evil.example.org"))
refused("InvalidIdentityToken", assume, sign(by="strange"))
refused("InvalidIdentityToken", assume, sign(kid="nobody"))
refused("InvalidIdentityToken", assume, good[:-6] + "AAAAAA")
head, body, _ = good.split(".")
none = "eyJhbGciOiJub25lIn0"
refused("InvalidIdentityToken", assume, f"{none}.{body}.")
refused("InvalidIdentityToken", assume, "not a token")
refused("AccessDenied", assume, sign(eduperson_entitlement=["urn:mace:egi.eu:group:vo.elsewhere.org#x"]))
refused("AccessDenied", assume, sign(), other_role)
refused("AccessDenied", assume, sign(), "arn:aws:iam::nobody:role/none")
refused("ValidationError", assume, sign(), "not-an-arn-of-a-role-at-all")

# Root's own calls: a session of its own, and a role.
token = root.get_session_token(DurationSeconds=900)["Credentials"]
own = boto3.client("sts", aws_access_key_id=token["AccessKeyId"], aws_secret_access_key=token["SecretAccessKey"],
                   aws_session_token=token["SessionToken"], **options)
assert own.get_caller_identity()["Account"] == "root"
taken = root.assume_role(RoleArn=role, RoleSessionName="op", DurationSeconds=900,
                         Policy=json.dumps({"Version": "2012-10-17", "Statement": []}
                                           | {"Statement": [{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}]}))
keys = taken["Credentials"]
limited = boto3.client("s3", aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"],
                       aws_session_token=keys["SessionToken"], **options)
limited.list_objects_v2(Bucket="shared")
refused("AccessDenied", limited.get_object, Bucket="shared", Key="hello")  # the session's policy is narrower
refused("MissingAuthenticationToken", anonymous.assume_role, RoleArn=role, RoleSessionName="op")
forged = boto3.client("sts", aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key="wrong", **options)
refused("SignatureDoesNotMatch", forged.get_caller_identity)
print("held")
