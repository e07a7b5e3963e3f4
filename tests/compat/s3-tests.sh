#!/bin/bash
# Runs ceph/s3-tests against a server of its own and says which tests pass, compared with docs/S3.md.
#
#   tests/compat/s3-tests.sh SUITE [pytest arguments, e.g. -k versioning]
#
# SUITE is a checkout of ceph/s3-tests at 8f0ae7b; it is not part of this repository. INFALL is the program
# (default: infall of the PATH), PYTEST the pytest of a Python 3.11 that has boto3 munch gevent isodate requests
# pytz httplib2 lxml PyYAML pytest-timeout.
set -euo pipefail
suite=$(realpath "${1:?a checkout of ceph/s3-tests}")
shift
here=$(realpath "$(dirname "$0")/../..")
infall=${INFALL:-infall}
pytest=${PYTEST:-pytest}
work=$(mktemp -d)
server=
tidy() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
    rm -rf "$work"
}
trap tidy EXIT

# Where bucket names may be made again by their owner, as the suite expects.
"$infall" serve --data "$work/data" --listen 127.0.0.1:0 --region us-east-1 >"$work/out" 2>"$work/log" &
server=$!
for _ in $(seq 100); do
    [ -s "$work/data/server.json" ] && break
    sleep 0.1
done
tell() { "$infall" --data "$work/data" --json "$@"; }

allow='{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
echo "$allow" >"$work/all.json"
for name in main alt tenant iam root1 root2; do
    tell project create "p-$name" >/dev/null
    tell user create "p-$name/$name" >/dev/null
    tell user policy put "p-$name/$name" all "$work/all.json" >/dev/null
    tell user key create "p-$name/$name" >"$work/key-$name"
done
python3 - "$work" >"$work/conf" <<'PY'
import json, pathlib, sys, urllib.parse

work = pathlib.Path(sys.argv[1])
served = json.loads((work / "data/server.json").read_text())
address = next(v for v in served.values() if isinstance(v, str) and v.startswith("http"))
print(f"[DEFAULT]\nhost = 127.0.0.1\nport = {urllib.parse.urlparse(address).port}\nis_secure = False\nssl_verify = False")
print("[fixtures]\nbucket prefix = s3t-{random}-\niam name prefix = s3-tests-\niam path prefix = /s3-tests/")
for section, name in [("s3 main", "main"), ("s3 alt", "alt"), ("s3 tenant", "tenant"),
                      ("iam", "iam"), ("iam root", "root1"), ("iam alt root", "root2")]:
    key = json.loads((work / f"key-{name}").read_text())
    access = key.get("id") or key.get("access_key")
    print(f"[{section}]\ndisplay_name = p-{name}\nuser_id = p-{name}\nemail = {name}@example.org")
    print(f"access_key = {access}\nsecret_key = {key['secret_key']}\ntenant =")
PY

cd "$suite"
S3TEST_CONF="$work/conf" AWS_MAX_ATTEMPTS=1 "$pytest" -q -p no:cacheprovider --timeout 60 -rA --tb=line \
    s3tests/functional/test_s3.py -m "not fails_on_aws" "$@" >"$work/results" || true
tail -1 "$work/results"
grep -a '^FAILED\|^ERROR' "$work/results" | sed 's/.*::\([^ [/]*\).*/\1/' | sort -u >"$work/failed"
# What docs/S3.md lists as not passed stands there in backquotes.
sed -n '/^## ceph\/s3-tests/,$p' "$here/docs/S3.md" | grep -o '`test_[^`]*`' | tr -d '`' | sort -u >"$work/known"
grep -a '^PASSED' "$work/results" | sed 's/.*:://' | sort -u >"$work/passed"
echo "failed, and docs/S3.md does not know it:"
comm -23 "$work/failed" "$work/known" | sed 's/^/  /'
echo "passed, and docs/S3.md says it does not:"
comm -12 "$work/passed" "$work/known" | sed 's/^/  /'
[ -z "$(comm -23 "$work/failed" "$work/known")" ]
