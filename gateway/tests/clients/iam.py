"""IAM as boto3 speaks it: one user who is let in step by step, through every family of calls."""

import json
import os
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT = os.environ["S3_ENDPOINT"]
CONFIG = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"})


def client(service, key=None):
    keys = {}
    if key:
        keys = {
            "aws_access_key_id": key["AccessKeyId"],
            "aws_secret_access_key": key["SecretAccessKey"],
        }
    return boto3.client(service, endpoint_url=ENDPOINT, config=CONFIG, **keys)


def refused(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return error
    raise AssertionError(f"{call} was not refused")


def claim(text):
    print("ok ", text)


def policy(*actions, resource="*"):
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


iam = client("iam")
user = iam.create_user(UserName="alice", Path="/staff/")["User"]
assert user["Arn"] == "arn:aws:iam::root:user/staff/alice", user
assert iam.get_user(UserName="alice")["User"]["UserId"] == user["UserId"]
assert [one["UserName"] for one in iam.list_users()["Users"]] == ["alice"]
refused("EntityAlreadyExists", iam.create_user, UserName="alice")
refused("NoSuchEntity", iam.get_user, UserName="nobody")
refused("ValidationError", iam.create_user, UserName="al:ice")
claim("users are made, shown, listed; what cannot be is refused in IAM's words")

key = iam.create_access_key(UserName="alice")["AccessKey"]
assert key["Status"] == "Active"
listed = iam.list_access_keys(UserName="alice")["AccessKeyMetadata"]
assert [one["AccessKeyId"] for one in listed] == [key["AccessKeyId"]]
assert "SecretAccessKey" not in listed[0]
alice_iam, alice_s3 = client("iam", key), client("s3", key)
s3 = client("s3")
s3.create_bucket(Bucket="ours")
s3.put_object(Bucket="ours", Key="k", Body=b"x")
refused("AccessDenied", alice_s3.get_object, Bucket="ours", Key="k")
refused("AccessDenied", alice_iam.list_users)
refused("AccessDenied", alice_iam.create_access_key, UserName="alice")
claim("a new user's key opens nothing")

iam.put_user_policy(UserName="alice", PolicyName="read", PolicyDocument=policy("s3:GetObject"))
assert alice_s3.get_object(Bucket="ours", Key="k")["Body"].read() == b"x"
refused("AccessDenied", alice_s3.put_object, Bucket="ours", Key="l", Body=b"y")
kept = iam.get_user_policy(UserName="alice", PolicyName="read")["PolicyDocument"]
assert kept["Statement"][0]["Action"] == ["s3:GetObject"], kept
assert iam.list_user_policies(UserName="alice")["PolicyNames"] == ["read"]
refused("MalformedPolicyDocument", iam.put_user_policy,
        UserName="alice", PolicyName="bad", PolicyDocument="{}")
iam.delete_user_policy(UserName="alice", PolicyName="read")
refused("AccessDenied", alice_s3.get_object, Bucket="ours", Key="k")
refused("NoSuchEntity", iam.get_user_policy, UserName="alice", PolicyName="read")
claim("a policy in line counts from its writing to its removal")

made = iam.create_policy(PolicyName="work", PolicyDocument=policy("s3:GetObject"))["Policy"]
iam.attach_user_policy(UserName="alice", PolicyArn=made["Arn"])
assert alice_s3.get_object(Bucket="ours", Key="k")["Body"].read() == b"x"
attached = iam.list_attached_user_policies(UserName="alice")["AttachedPolicies"]
assert attached == [{"PolicyName": "work", "PolicyArn": made["Arn"]}], attached
assert iam.get_policy(PolicyArn=made["Arn"])["Policy"]["AttachmentCount"] == 1
version = iam.create_policy_version(
    PolicyArn=made["Arn"], PolicyDocument=policy("s3:PutObject"), SetAsDefault=True
)["PolicyVersion"]
assert version["VersionId"] == "v2" and version["IsDefaultVersion"]
refused("AccessDenied", alice_s3.get_object, Bucket="ours", Key="k")
alice_s3.put_object(Bucket="ours", Key="l", Body=b"y")
text = iam.get_policy_version(PolicyArn=made["Arn"], VersionId="v2")["PolicyVersion"]
assert text["Document"]["Statement"][0]["Action"] == ["s3:PutObject"]
assert len(iam.list_policy_versions(PolicyArn=made["Arn"])["Versions"]) == 2
refused("DeleteConflict", iam.delete_policy, PolicyArn=made["Arn"])
refused("DeleteConflict", iam.delete_policy_version, PolicyArn=made["Arn"], VersionId="v2")
iam.set_default_policy_version(PolicyArn=made["Arn"], VersionId="v1")
iam.delete_policy_version(PolicyArn=made["Arn"], VersionId="v2")
entities = iam.list_entities_for_policy(PolicyArn=made["Arn"])
assert [one["UserName"] for one in entities["PolicyUsers"]] == ["alice"]
refused("DeleteConflict", iam.delete_policy, PolicyArn=made["Arn"])
iam.detach_user_policy(UserName="alice", PolicyArn=made["Arn"])
iam.delete_policy(PolicyArn=made["Arn"])
refused("NoSuchEntity", iam.get_policy, PolicyArn=made["Arn"])
built_in = "arn:aws:iam::aws:policy/ReadOnlyAccess"
refused("AccessDenied", iam.delete_policy, PolicyArn=built_in)
names = [one["PolicyName"] for one in iam.list_policies(Scope="AWS")["Policies"]]
assert "AdministratorAccess" in names and "ProjectMember" in names
claim("managed policies have versions, of which one counts, and go only when nobody has them")

iam.create_group(GroupName="readers")
iam.add_user_to_group(GroupName="readers", UserName="alice")
iam.attach_group_policy(GroupName="readers", PolicyArn=built_in)
assert alice_s3.get_object(Bucket="ours", Key="k")["Body"].read() == b"x"
assert [one["UserName"] for one in iam.get_group(GroupName="readers")["Users"]] == ["alice"]
assert iam.list_groups_for_user(UserName="alice")["Groups"][0]["GroupName"] == "readers"
refused("DeleteConflict", iam.delete_group, GroupName="readers")
iam.put_group_policy(GroupName="readers", PolicyName="p", PolicyDocument=policy("vm:List"))
assert iam.list_group_policies(GroupName="readers")["PolicyNames"] == ["p"]
iam.delete_group_policy(GroupName="readers", PolicyName="p")
iam.remove_user_from_group(GroupName="readers", UserName="alice")
refused("AccessDenied", alice_s3.get_object, Bucket="ours", Key="k")
iam.detach_group_policy(GroupName="readers", PolicyArn=built_in)
assert iam.list_attached_group_policies(GroupName="readers")["AttachedPolicies"] == []
iam.delete_group(GroupName="readers")
assert iam.list_groups()["Groups"] == []
claim("a group's policies are its members'")

trust = json.dumps({
    "Version": "2012-10-17",
    "Statement": [{
        "Effect": "Allow",
        "Principal": {"AWS": user["Arn"]},
        "Action": "sts:AssumeRole",
    }],
})
role = iam.create_role(RoleName="worker", AssumeRolePolicyDocument=trust)["Role"]
assert role["AssumeRolePolicyDocument"]["Statement"][0]["Action"] == "sts:AssumeRole"
iam.put_role_policy(RoleName="worker", PolicyName="get", PolicyDocument=policy("s3:GetObject"))
assert iam.get_role_policy(RoleName="worker", PolicyName="get")["RoleName"] == "worker"
iam.update_assume_role_policy(RoleName="worker", PolicyDocument=trust)
iam.attach_role_policy(RoleName="worker", PolicyArn=built_in)
assert [one["RoleName"] for one in iam.list_roles()["Roles"]] == ["worker"]
refused("MalformedPolicyDocument", iam.create_role,
        RoleName="broken", AssumeRolePolicyDocument=policy("sts:AssumeRole"))
given = client("sts", key).assume_role(RoleArn=role["Arn"], RoleSessionName="one")["Credentials"]
session = boto3.client(
    "s3", endpoint_url=ENDPOINT, config=CONFIG,
    aws_access_key_id=given["AccessKeyId"],
    aws_secret_access_key=given["SecretAccessKey"],
    aws_session_token=given["SessionToken"],
)
assert session.get_object(Bucket="ours", Key="k")["Body"].read() == b"x"
refused("AccessDenied", session.put_object, Bucket="ours", Key="m", Body=b"z")
refused("DeleteConflict", iam.delete_role, RoleName="worker")
iam.delete_role_policy(RoleName="worker", PolicyName="get")
iam.detach_role_policy(RoleName="worker", PolicyArn=built_in)
iam.delete_role(RoleName="worker")
refused("NoSuchEntity", iam.get_role, RoleName="worker")
claim("a role is assumed by whom its trust names, and does what it was given")

iam.update_access_key(UserName="alice", AccessKeyId=key["AccessKeyId"], Status="Inactive")
refused("InvalidAccessKeyId", alice_s3.get_object, Bucket="ours", Key="k")
refused("InvalidClientTokenId", alice_iam.list_users)
iam.update_user(UserName="alice", NewUserName="alicia")
refused("DeleteConflict", iam.delete_user, UserName="alicia")
iam.delete_access_key(UserName="alicia", AccessKeyId=key["AccessKeyId"])
iam.delete_user(UserName="alicia")
assert iam.list_users()["Users"] == []
claim("a key that is off opens nothing; a user goes when nothing is theirs any more")

began = time.monotonic()
refused("NotImplemented", iam.list_virtual_mfa_devices)
refused("NotImplemented", iam.get_account_summary)
assert time.monotonic() - began < 2
wrong = dict(key, SecretAccessKey="x" * 40)
refused("InvalidClientTokenId", client("iam", wrong).list_users)
claim("what is not served says so at once, and a wrong key is nobody's")
