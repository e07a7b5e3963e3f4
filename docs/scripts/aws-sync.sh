#!/usr/bin/env bash
# Keeps a folder and a bucket of Infall alike with the stock `aws` command.
#
#   aws-sync.sh FOLDER BUCKET [PREFIX]     for example: aws-sync.sh ./results data run-7
#
# Needs: aws (PyPI: awscli), infall on the PATH, and a server that `infall status` reaches.
# Does:  makes the bucket if it is missing, copies what differs, deletes what the folder no longer
#        has, and looks afterwards whether anything is left to do.
# Exit:  0 alike, 2 usage, 3 something it needs is missing, 4 not alike afterwards, else aws's own.
set -euo pipefail

if [ $# -lt 2 ] || [ $# -gt 3 ] || [ ! -d "$1" ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
folder=$1 target=s3://$2/${3:+$3/}
for tool in aws infall; do
    command -v "$tool" >/dev/null || { echo "error: no $tool on the PATH" >&2; exit 3; }
done

# The endpoint, the region and the keys of this machine's server, for this script alone.
eval "$(infall env)"
infall status >/dev/null || { echo "error: no server answers; start it: infall serve" >&2; exit 3; }

if ! aws s3api head-bucket --bucket "$2" 2>/dev/null; then
    aws s3 mb "s3://$2"
fi

# --no-progress keeps logs readable; --delete makes the bucket follow the folder in both ways.
aws s3 sync "$folder" "$target" --delete --no-progress

# aws compares length and time. What it would still do now is what went wrong.
left=$(aws s3 sync "$folder" "$target" --delete --dryrun)
if [ -n "$left" ]; then
    printf 'error: %s and %s are not alike:\n%s\n' "$folder" "$target" "$left" >&2
    exit 4
fi
echo "alike: $folder and $target"
