"""What a client is told when the server's disk is full."""

from door import *

s3 = client()
BUCKET = fresh_bucket(s3, "full")


def it_refuses_a_write_with_507_and_keeps_what_it_has():
    data = noise(4 << 20, 1)
    stored = []
    for number in range(60):
        try:
            s3.put_object(Bucket=BUCKET, Key=f"{number:02}", Body=data)
        except ClientError as error:
            reply = error.response
            same((reply["Error"]["Code"], reply["ResponseMetadata"]["HTTPStatusCode"]), ("InsufficientStorage", 507))
            break
        stored.append(f"{number:02}")
    else:
        raise AssertionError("the disk never filled")
    assert len(stored) > 5, stored
    same([one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET)["Contents"]], stored)
    for key in stored:
        same(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == data, True, key)
    # Deletes are what makes room, so they work.
    for key in stored:
        s3.delete_object(Bucket=BUCKET, Key=key)
    same(s3.list_objects_v2(Bucket=BUCKET)["KeyCount"], 0)


run_claims(sys.modules[__name__])
