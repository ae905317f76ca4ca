#!/bin/sh
# Switches etcd's authentication on before anybody else can reach it: runs etcd for a moment with its client port on
# loopback only, and leaves the marker when the password is proved and anonymous calls are refused. Every step takes
# "already so" for done, so a run that was cut off is finished by the next one. Members of a cluster do it at the same
# time: whoever comes first, the others find it done.
#
# A member that lost its data is replaced: the others still count on it and would not take it for a new one. They are
# asked at MEMBER_OTHERS (with MEMBER_CA when they speak TLS) to forget the member at MEMBER_URL and to expect it anew; the
# data directory is MEMBER_DATA. Without MEMBER_OTHERS nothing is asked. Others that do not answer, as long as they elect a
# leader, are taken for members that are not there yet; etcd itself tells when they are, and they are asked again.
#
#   etcd-bootstrap MARKER PORT etcd ARGUMENT...      (the password on standard input)
set -u
marker=$1
port=$2
shift 2
log=$(dirname "$marker")/bootstrap.log
umask 077
exec 2>"$log" >&2
export ETCDCTL_API=3

IFS= read -r password || true
case $password in
'' | *[[:space:]]*)
    echo "the password is empty or has blanks in it: etcdctl cannot read it"
    exit 2
    ;;
esac

others() {
    ETCDCTL_USER="root:$password" etcdctl --endpoints "$MEMBER_OTHERS" ${MEMBER_CA:+--cacert "$MEMBER_CA"} \
        --dial-timeout 2s --command-timeout 5s "$@"
}

has_data() {
    # A start that was refused leaves a directory behind, and no log in it.
    ls "$MEMBER_DATA"/member/wal/*.wal >/dev/null 2>&1
}

# The identifier and state of this member in the eyes of the others; fails when nobody answers.
known() {
    list=$(others member list) || return 1
    echo "$list" | awk -F', ' -v url="$MEMBER_URL" '$4 == url { print $1, $2 }'
}

# The others refuse changes in the first seconds after a start of theirs, so each is tried again.
replace() {
    replaced=
    for _ in $(seq 30); do
        if ! known_as=$(known); then
            # Before the cluster exists nobody does.
            [ -n "$replaced$counted" ] || return
            sleep 1
            continue
        fi
        case $known_as in
        *" started")
            echo "the others know this member, whose data is gone: it is replaced"
            replaced=yes
            others member remove "${known_as% *}" || sleep 1
            ;;
        *" unstarted")
            state=existing
            rm -rf "$MEMBER_DATA/member"
            return
            ;;
        *)
            [ -n "$replaced$counted" ] || return
            others member add "$MEMBER_NAME" --peer-urls "$MEMBER_URL" || sleep 1
            ;;
        esac
    done
    echo "the member could not be replaced: do most of the others run?"
    exit 3
}

launch() {
    "$@" --initial-cluster-state "$state" --listen-client-urls "http://127.0.0.1:$port" &
    etcd=$!
}

state=new
counted=
empty=
if [ -n "${MEMBER_OTHERS-}" ] && ! has_data; then
    empty=yes
    replace
fi
launch "$@"
trap 'kill "$etcd" 2>/dev/null; wait "$etcd"' EXIT

anonymous() {
    etcdctl --endpoints "http://127.0.0.1:$port" --command-timeout 5s "$@"
}

# With the password in the environment: arguments can be read by everybody.
root() {
    ETCDCTL_USER="root:$password" anonymous "$@"
}

for _ in $(seq 1 300); do
    if ! kill -0 "$etcd" 2>/dev/null; then
        # The others know it, or one that was in its place before: what this start has written is of no use.
        if [ -n "$empty" ] && [ -z "$counted" ] &&
            grep -qE 'has already been bootstrapped|has been permanently removed from the cluster' "$log"; then
            counted=yes
            replace
            launch "$@"
            continue
        fi
        echo "etcd ended"
        exit 1
    fi
    # What an anonymous call gets tells all three states. A call with a login would not: etcdctl 3.4 takes any login for
    # good while authentication is off.
    if answer=$(anonymous get / 2>&1); then
        printf '%s\n' "$password" | anonymous user add root --interactive=false ||
            printf '%s\n' "$password" | anonymous user passwd root --interactive=false
        anonymous role add root
        anonymous user grant-role root root
        anonymous auth enable
        continue
    fi
    case $answer in
    *"user name is empty"*)
        if root get /; then
            touch "$marker"
            exit 0
        fi
        ;;
    esac
    sleep 0.2
done
echo "authentication could not be enabled: $answer"
echo "is there another password, or are members of the cluster missing?"
exit 1
