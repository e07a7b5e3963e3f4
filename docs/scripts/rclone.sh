#!/usr/bin/env bash
# Copies a folder to Infall with rclone, checks it, and copies it back.
#
#   rclone.sh FOLDER BUCKET BACK       for example: rclone.sh ./results data ./results-again
#
# Needs: rclone (1.60 or later), infall on the PATH, and a server that `infall status` reaches.
# Does:  sync up, `rclone check` by checksum, sync down to BACK, and a check of that.
#        The same works for WebDAV: rclone's remote `:webdav:` at http://HOST:PORT/dav/.
# Exit:  0 all alike, 2 usage, 3 something it needs is missing, else rclone's own.
set -euo pipefail

if [ $# -ne 3 ] || [ ! -d "$1" ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
folder=$1 bucket=$2 back=$3
for tool in rclone infall; do
    command -v "$tool" >/dev/null || { echo "error: no $tool on the PATH" >&2; exit 3; }
done

# Variables RCLONE_CONFIG_INFALL_… make a remote "infall:" without a configuration file.
eval "$(infall env)"
infall status >/dev/null || { echo "error: no server answers; start it: infall serve" >&2; exit 3; }

# Bounded parallelism, a few retries, no noise; --create-empty-src-dirs has no meaning in S3.
options=(--transfers 4 --checkers 8 --retries 3 --stats 0 --quiet)

rclone mkdir "infall:$bucket" "${options[@]}"
rclone sync "$folder" "infall:$bucket" "${options[@]}"
# One way: by size and MD5, without reading the payload back from objects put in one piece.
rclone check "$folder" "infall:$bucket" "${options[@]}"

rclone sync "infall:$bucket" "$back" "${options[@]}"
# The other way reads every byte: what came back is what was sent.
rclone check "$folder" "$back" --download "${options[@]}"
echo "alike: $folder, infall:$bucket and $back"
