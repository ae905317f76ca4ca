# Shows the logs of services that recipes defined on this machine: $LINES_SHOWN lines of each of $SERVICES (shell
# patterns; all when empty), and what comes later when $FOLLOW is 1.
set -f
wanted() {
    [ -n "$SERVICES" ] || return 0
    for pattern in $SERVICES; do
        case $1 in $pattern) return 0 ;; esac
    done
    return 1
}
set +f
found=
if [ -d /run/systemd/system ]; then
    for unit in /etc/systemd/system/*.service; do
        name=${unit##*/}
        name=${name%.service}
        if [ -f "$unit" ] && [ ! -L "$unit" ] && wanted "$name"; then found="$found --unit=$name.service"; fi
    done
    [ -n "$found" ] || { echo "no such service here" >&2; exit 1; }
    follow=
    [ "$FOLLOW" != 1 ] || follow=--follow
    # shellcheck disable=SC2086  # A list of words.
    exec journalctl --no-pager --output=short-iso --lines="$LINES_SHOWN" $follow $found
fi
for log in /var/log/*/current; do
    name=${log%/current}
    name=${name##*/}
    if [ -f "$log" ] && [ -e "/etc/service/$name" ] && wanted "$name"; then found="$found $log"; fi
done
[ -n "$found" ] || { echo "no such service here" >&2; exit 1; }
follow=
[ "$FOLLOW" != 1 ] || follow=-F
# shellcheck disable=SC2086
exec tail -n "$LINES_SHOWN" $follow $found
