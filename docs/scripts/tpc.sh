#!/usr/bin/env bash
# HTTP third-party copy: two servers move the bytes between them, this machine only watches.
#
#   tpc.sh pull SOURCE-URL TARGET-URL     the target fetches from the source
#   tpc.sh push SOURCE-URL TARGET-URL     the source sends to the target
#   for example: tpc.sh pull https://a.example.org/dav/data/x https://b.example.org/dav/data/x
#
# Needs: curl. The one that copies must have the other in its list of hosts (Infall: dav.tpc_hosts).
# Keys:  TPC_TOKEN for the server that copies, TPC_OTHER_TOKEN for the one it copies from or to;
#        for Infall "<access key>:<secret key>". TPC_CA names a CA's certificate if need be.
# Does:  COPY with Source or Destination, reads the markers, and believes the last line alone:
#        "202 Accepted" says only that it has begun.
# Exit:  0 copied, 2 usage, 3 something it needs is missing, 4 refused or failed.
set -euo pipefail

if [ $# -ne 3 ] || { [ "$1" != pull ] && [ "$1" != push ]; }; then
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
command -v curl >/dev/null || { echo "error: no curl on the PATH" >&2; exit 3; }
: "${TPC_TOKEN:?set it to the token of the server that copies}"
: "${TPC_OTHER_TOKEN:?set it to the token of the other server}"
if [ "$1" = pull ]; then
    active=$3 header="Source: $2"
else
    active=$2 header="Destination: $3"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Tokens go through a file that only we can read. TransferHeader… is passed on without its prefix.
(umask 077 && cat >"$scratch/headers" <<END
Authorization: Bearer $TPC_TOKEN
TransferHeaderAuthorization: Bearer $TPC_OTHER_TOKEN
END
)
ca=()
if [ -n "${TPC_CA:-}" ]; then
    ca=(--cacert "$TPC_CA")
fi

# Overwrite: F leaves a target alone that is there already.
status=$(curl --silent --show-error --no-buffer "${ca[@]}" -X COPY -H "@$scratch/headers" -H "$header" \
    -H 'Overwrite: F' -H 'RequireChecksumVerification: true' --output "$scratch/answer" \
    --write-out '%{http_code}' "$active") || true
if [ "$status" != 202 ] && [ "$status" != 201 ]; then
    echo "error: refused with status $status: $(head -c 500 "$scratch/answer" 2>/dev/null)" >&2
    exit 4
fi
# The blocks between "Perf Marker" and "End" tell how far it is; the last one is the whole.
moved=$(sed -n 's/^[[:space:]]*Stripe Bytes Transferred: *//p' "$scratch/answer" | tail -1)
last=$(grep -v '^[[:space:]]*$' "$scratch/answer" | tail -1)
case $last in
success*) echo "copied${moved:+ $moved bytes}: $2 -> $3" ;;
*)
    echo "error: ${last:-the answer broke off}" >&2
    exit 4
    ;;
esac
