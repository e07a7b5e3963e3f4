#!/usr/bin/env bash
# The life of a data object over CDMI, with nothing but curl and jq.
#
#   cdmi-curl.sh CONTAINER         for example: cdmi-curl.sh cdmi-demo
#
# Needs: curl, jq, infall on the PATH, and a server that `infall status` reaches.
# Does:  makes a container (a bucket), puts an object with metadata, reads a part of its value,
#        copies it, reads the copy by its object id, and takes all of it away again.
# Exit:  0 all as the standard says, 2 usage, 3 something it needs is missing, 4 another answer.
set -euo pipefail

if [ $# -ne 1 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
container=$1
for tool in curl jq infall; do
    command -v "$tool" >/dev/null || { echo "error: no $tool on the PATH" >&2; exit 3; }
done
eval "$(infall env)"
infall status >/dev/null || { echo "error: no server answers; start it: infall serve" >&2; exit 3; }

cdmi=$AWS_ENDPOINT_URL/cdmi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Keys in a file, not among the arguments: those, other users of this machine can read.
(umask 077 && printf 'user = "%s:%s"\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" >"$scratch/keys")
if [ -n "${AWS_CA_BUNDLE:-}" ]; then
    printf 'cacert = "%s"\n' "$AWS_CA_BUNDLE" >>"$scratch/keys"
fi

# ask EXPECTED-STATUS curl-arguments…: the body goes to standard output.
ask() {
    local expected=$1 status
    shift
    status=$(curl --silent --show-error --config "$scratch/keys" --output "$scratch/body" --write-out '%{http_code}' \
        -H 'X-CDMI-Specification-Version: 1.1.1' "$@")
    if [ "$status" != "$expected" ]; then
        echo "error: expected $expected, got $status for: ${*: -1}" >&2
        cat "$scratch/body" >&2
        exit 4
    fi
    cat "$scratch/body"
}
object='Content-Type: application/cdmi-object'
want_object='Accept: application/cdmi-object'
want_container='Accept: application/cdmi-container'

echo "1. a container"
ask 201 -X PUT -H 'Content-Type: application/cdmi-container' -H "$want_container" -d '{}' "$cdmi/$container/" |
    jq -e '.objectType == "application/cdmi-container"' >/dev/null

echo "2. an object with metadata"
ask 201 -X PUT -H "$object" -H "$want_object" \
    -d '{"mimetype": "text/plain", "metadata": {"colour": "blue"}, "value": "Hello CDMI World"}' \
    "$cdmi/$container/hello.txt" | jq -e '.metadata.colour == "blue"' >/dev/null

echo "3. a part of its value, by CDMI and by plain HTTP"
ask 200 -H "$want_object" "$cdmi/$container/hello.txt?value:6-9" | jq -e 'has("value")' >/dev/null
part=$(curl --silent --fail --config "$scratch/keys" -r 6-9 "$cdmi/$container/hello.txt")
[ "$part" = CDMI ] || { echo "error: expected CDMI, got $part" >&2; exit 4; }

echo "4. a copy, made by the server"
id=$(ask 201 -X PUT -H "$object" -H "$want_object" -d "{\"copy\": \"/cdmi/$container/hello.txt\"}" \
    "$cdmi/$container/copy.txt" | jq -re .objectID)

echo "5. the copy by its object id: $id"
ask 200 -H "$want_object" "$cdmi/cdmi_objectid/$id?value;metadata" |
    jq -e '.value == "Hello CDMI World" or .value == "SGVsbG8gQ0RNSSBXb3JsZA=="' >/dev/null

echo "6. what the container holds"
ask 200 -H "$want_container" "$cdmi/$container/?children" |
    jq -e '.children | sort == ["copy.txt", "hello.txt"]' >/dev/null

echo "7. all of it away again"
ask 204 -X DELETE "$cdmi/$container/hello.txt"
ask 204 -X DELETE "$cdmi/$container/copy.txt"
ask 204 -X DELETE "$cdmi/$container/"
ask 404 -H "$want_container" "$cdmi/$container/" >/dev/null
echo "all as the standard says"
