#!/usr/bin/env bash
# A nightly data-staging job for a VM: stage in, verify, run, stage out.
#
#   nightly-staging.sh INPUT OUTPUT FOLDER COMMAND [ARGUMENT…]
#   for example: nightly-staging.sh davs://lab.example.org/in/ s3://results/ /srv/job ./analyse.sh
#
# INPUT and OUTPUT are trees as `infall stage` reads them: s3://…, davs://…, cdmi://…, https://….
# COMMAND runs in FOLDER, reads in/ and writes out/; what it writes goes to OUTPUT/<date>/.
# FOLDER/in.manifest, if it is there (`infall stage put --manifest` writes such), is held to: the
# command does not run on anything that differs.
#
# Needs: infall and flock on the PATH; keys as `infall stage put --help` says. From cron:
#   15 2 * * *  /opt/job/nightly-staging.sh davs://lab.example.org/in/ s3://results/ /srv/job ./analyse.sh
# Does:  one run at a time (FOLDER/lock), a log of each day (FOLDER/log/<date>.log), and goes on
#        where a run was cut off: staging continues, and a day that is done is not done again.
# Exit:  0 done, or done already; 2 usage; 3 something it needs is missing; 10 another run works;
#        20 stage in failed, 21 the input is not what it should be, 22 the command failed,
#        23 stage out failed. The log names the cause, and the exit code of `infall stage`.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,21s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
input=$1 output=${2%/} folder=$3
shift 3
for tool in infall flock; do
    command -v "$tool" >/dev/null || { echo "error: no $tool on the PATH" >&2; exit 3; }
done
# STAGING_DAY redoes the work of another day.
day=${STAGING_DAY:-$(date -u +%F)}
mkdir -p "$folder/in" "$folder/out" "$folder/log" "$folder/done"
cd "$folder"

# The lock goes with the process, however that ends.
exec 9>lock
if ! flock --nonblock 9; then
    echo "another run works in $folder" >&2
    exit 10
fi
# Everything from here on is in the log; cron mails what stands on standard error.
log=log/$day.log
say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" | tee -a "$log"; }
fail() {
    local exit=$1
    shift
    say "failed: $*"
    echo "error: $* (log: $folder/$log)" >&2
    exit "$exit"
}

if [ -e "done/$day" ]; then
    say "$day is done already"
    exit 0
fi

say "stage in: $input"
# A slower line for the night's other users: STAGING_BANDWIDTH=20MiB.
pace=(${STAGING_BANDWIDTH:+--bandwidth "$STAGING_BANDWIDTH"})
code=0
infall stage sync "$input" in/ --compare checksum --delete --retries 8 "${pace[@]}" >>"$log" 2>&1 || code=$?
case $code in
0) ;;
8) fail 21 "what came from $input is not what its checksums say" ;;
*) fail 20 "stage in from $input ended with exit $code" ;;
esac

if [ -e in.manifest ]; then
    say "verify: in.manifest"
    infall stage verify in/ --against in.manifest >>"$log" 2>&1 ||
        fail 21 "in/ is not what in.manifest says"
fi

say "run: $*"
rm -rf out && mkdir out
# Not even a process that the command leaves behind keeps the lock.
"$@" >>"$log" 2>&1 9>&- || fail 22 "$1 ended with exit $?"

say "stage out: $output/$day/"
# --existing replace: a run that was cut off here has sent some of it already.
infall stage put out/ "$output/$day/" --existing replace --manifest "done/$day.manifest" --retries 8 \
    "${pace[@]}" >>"$log" 2>&1 || fail 23 "stage out to $output/$day/ ended with exit $?"
infall stage verify "$output/$day/" --against "done/$day.manifest" >>"$log" 2>&1 ||
    fail 23 "what lies at $output/$day/ is not what was sent"

touch "done/$day"
say "done: $(wc -l <"done/$day.manifest") files at $output/$day/"
