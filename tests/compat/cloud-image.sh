#!/usr/bin/env bash
# A real Debian image with cloud-init on every kind of network: uploaded by aws, registered, run, logged in to.
#
#   tests/compat/cloud-image.sh [FOLDER]      some four minutes per network without KVM; the image once, 90 s
#
# As root. FOLDER (default: a temporary one, removed at the end) keeps the data directory and all logs. INFALL is the
# program (default: infall of the PATH); KINDS the networks to try (default: user bridge network). Everything runs in
# mount, process and network namespaces of its own, with a libvirtd of its own: the host's bridges, its libvirt and its
# addresses are not touched, and whatever is left at the end goes with the namespaces.
set -euo pipefail
here=$(realpath "$(dirname "$0")/../..")
tools="${INFALL_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/infall/tools}"

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || { echo "error: namespaces and bridges need root; next: run it as root" >&2; exit 3; }
    "$here/scripts/packages" --compat --check >/dev/null || "$here/scripts/packages" --compat
    infall=$(command -v "${INFALL:-infall}") || { echo "error: no program ${INFALL:-infall}; next: cargo build --release, then INFALL=…" >&2; exit 3; }
    image=$("$here/tests/compat/debian-image.sh")
    if [ -n "${1:-}" ]; then mkdir -p "$1" && work=$(realpath "$1"); else work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT; fi
    chmod 755 "$work" # QEMU is another user and has to pass.
    unshare --mount --pid --net --uts --fork --kill-child --mount-proc "$0" --inside "$work" "$(realpath "$infall")" "$image"
    exit
fi
work=$2 infall=$3 image=$4
trap 'exit 130' INT TERM # Process 1 hears of a signal only where it has asked for it; all others end with it.
began=$(date +%s)
step() { printf '[%4d s] %s\n' $(($(date +%s) - began)) "$*"; }
fail() { echo "error: $*" >&2; exit 1; }

# --- the surroundings: loopback, libvirtd, a bridge, libvirt's own network, a server, three people
ip link set lo up
for part in run lib log cache; do mkdir -p "$work/libvirt/$part"; done
cp -a /etc/libvirt "$work/libvirt/etc"
rm -rf "$work"/libvirt/etc/qemu/*.xml "$work"/libvirt/etc/qemu/autostart/* "$work"/libvirt/etc/qemu/networks/autostart/*
mount --bind "$work/libvirt/run" /run
mount --bind "$work/libvirt/etc" /etc/libvirt
for part in lib log cache; do
    mkdir -p "/var/$part/libvirt"
    mount --bind "$work/libvirt/$part" "/var/$part/libvirt"
done
virtlogd -d -p /run/virtlogd.pid
libvirtd -d -p /run/libvirtd.pid
export LIBVIRT_DEFAULT_URI=qemu:///system
ip link add br0 type bridge
ip addr add 10.213.7.1/24 dev br0
ip link set br0 up

"$infall" serve --data "$work/data" --listen 127.0.0.1:0 >"$work/serve.out" 2>"$work/serve.log" &
for _ in $(seq 100); do [ -s "$work/data/server.json" ] && break; sleep 0.1; done
[ -s "$work/data/server.json" ] || { cat "$work/serve.log" >&2; fail "the server does not start"; }
endpoint=$(jq -r .endpoint "$work/data/server.json")
export HOME="$work" AWS_REGION=us-east-1
root() { "$infall" --data "$work/data" "$@"; }
person() { # NAME PROJECT/NAME POLICY: a function of that name that is them
    root user create "$2" --key --json >"$work/$1.json"
    root user attach "$2" "$3" >/dev/null
    eval "$1() { env INFALL_DATA='$work/data' INFALL_ENDPOINT='$endpoint' INFALL_ACCESS_KEY='$(jq -r .key.id "$work/$1.json")' \
        INFALL_SECRET_KEY='$(jq -r .key.secret_key "$work/$1.json")' '$infall' \"\$@\"; }"
}
root project create lab >/dev/null
root project create elsewhere >/dev/null
person alice lab/alice ProjectMember
person operator root/operator VMOperator
person mallory elsewhere/mallory ProjectAdmin

# --- the image
step "upload $(basename "$image"), $(numfmt --to=iec "$(stat -c %s "$image")"), by aws"
alice bucket create images >/dev/null
AWS_ACCESS_KEY_ID=$(jq -r .key.id "$work/alice.json") AWS_SECRET_ACCESS_KEY=$(jq -r .key.secret_key "$work/alice.json") \
    "$tools/bin/aws" --endpoint-url "$endpoint" s3 cp --no-progress "$image" s3://images/debian-12.raw >/dev/null
step "image add: $(alice image add s3://images/debian-12.raw --name debian-12)"
debian=$(alice image ls --json | jq -r '.images[0].id')

cat >"$work/user-data" <<'YAML'
#cloud-config
ssh_genkeytypes: [ed25519]
chpasswd: {expire: false, users: [{name: debian, password: knock-knock, type: text}]}
write_files: [{path: /etc/marker, content: "written by user data\n"}]
runcmd: [[sh, -c, 'echo ran >> /var/tmp/runcmd']]
YAML
cat >"$work/bridge-config" <<'YAML'
version: 2
ethernets: {all: {match: {name: "en*"}, addresses: [10.213.7.10/24]}}
YAML

agent() { virsh -q qemu-agent-command "$1" "$2"; }
inside() { local name=$1; shift; "$member" vm ssh "$name" -- "$@" 2>>"$work/ssh.err"; }

try() { # KIND NETWORK [further words for vm run]
    local kind=$1 network=$2 name="web-$1" before
    shift 2
    # Bridges and networks are the host's, and the host is the root project's.
    case $kind in user) runner=alice member=alice ;; *) runner=root member=operator ;; esac
    step "$kind: vm run --network $network"
    "$runner" vm run "$name" --image "$debian" --disk 3G --memory 768 --network "$network" --user-data "$work/user-data" "$@" \
        --wait --timeout 10m
    step "$kind: ssh as a member: $(inside "$name" uname -a)"
    [ "$(inside "$name" hostname)" = "$name" ] || fail "the guest has another name"
    [ "$("$member" vm ssh "debian@$name" -- id -un 2>>"$work/ssh.err")" = debian ] || fail "the image's own user cannot log in"
    [ "$kind" = user ] || step "$kind: $("$member" vm show "$name" | grep -w address | tr -s ' ' | paste -sd ' ')"

    inside "$name" cloud-init status --wait >/dev/null || fail "cloud-init: $(inside "$name" cloud-init status --long)"
    inside "$name" "grep -qx 'written by user data' /etc/marker" || fail "write_files did not run"
    [ "$(inside "$name" cat /var/tmp/runcmd)" = ran ] || fail "runcmd did not run once"
    step "$kind: cloud-init ran the user data: $(inside "$name" "journalctl -b -o cat | grep -o 'Cloud-init v.* finished.*'" | tail -1)"
    local grown
    grown=$(inside "$name" df --output=size -BM / | tail -1 | tr -dc 0-9)
    [ "$grown" -gt 2500 ] || fail "the root file system has $grown MiB of a disk of 3 GiB"
    step "$kind: root file system grown to $grown MiB of 3 GiB"
    agent "$name" '{"execute":"guest-ping"}' >/dev/null || fail "the guest agent does not answer"
    step "$kind: guest agent answers: $(agent "$name" '{"execute":"guest-info"}' | jq -r '.return.version'), froze $(virsh domfsfreeze "$name" | tr -dc 0-9) and thawed $(virsh domfsthaw "$name" | tr -dc 0-9) file system"

    before=$(root events --json | tail -1 | jq .seq)
    if mallory vm ssh "$name" -- true 2>"$work/refused"; then fail "an outsider is let in"; else [ $? = 6 ] || fail "not refused, but: $(cat "$work/refused")"; fi
    sleep 1
    step "$kind: outsider refused, on record: $(root events --json --after "$before" | jq -r 'select(.kind == "access.denied" and .actor == "user/mallory") | "\(.actor) \(.detail)"' | head -1 | cut -c1-90)"
    root events --json --after "$before" | jq -e 'select(.kind == "access.denied" and .actor == "user/mallory")' >/dev/null || fail "no row of the refusal"

    python3 "$here/tests/compat/console.py" "$name" "$infall" "$work/$member.json" "$endpoint" "$work/data" || fail "the console"
    step "$kind: console --attach: logged in by password, typed, left by Ctrl-]"

    step "$kind: vm stop: $("$runner" vm stop "$name" --timeout 120s)"
    step "$kind: vm start --wait: $("$runner" vm start "$name" --wait --timeout 10m)"
    inside "$name" "grep -qx 'written by user data' /etc/marker" || fail "the disk forgot"
    [ "$(inside "$name" cat /var/tmp/runcmd)" = ran ] || fail "runcmd ran again"
    step "$kind: after the restart ssh opens, the disk is the same, user data ran no second time"
    step "$kind: vm rm --disks: $("$runner" vm rm "$name" --disks)"
    root volume ls --json | grep -q "$name-root" && fail "the root disk is still there"
    return 0
}

for kind in ${KINDS:-user bridge network}; do
    case $kind in
        user) try user user ;;
        bridge) try bridge bridge=br0 --network-config "$work/bridge-config" ;;
        network)
            virsh -q net-info default >/dev/null 2>&1 || fail "libvirt has no network \"default\"; next: apt-get install libvirt-daemon-config-network"
            virsh -q net-start default >/dev/null
            try network network=default
            ;;
        *) fail "KINDS holds $kind; there are user, bridge and network" ;;
    esac
done
step "all held"
