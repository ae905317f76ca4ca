#!/bin/sh
# Stand-in for volumedriver_fs.sh: preloads tcmalloc where it is, and becomes volumedriver_fs.
tcmalloc=$(ls /usr/lib/libtcmalloc.so.* 2>/dev/null | head -n 1)
if [ -n "$tcmalloc" ]; then
    LD_PRELOAD=$tcmalloc
    export LD_PRELOAD
fi
exec "$(dirname "$0")/volumedriver_fs" "$@"
