//! The tricks by which something of a job could stay, for the tests of both doors.

/// Scripts that leave something behind, or try to. `$MARK` is the argument of every sleep, `$UP` a file to make when all is set up.
pub(crate) const ESCAPES: &[(&str, &str)] = &[
    ("a child", "sleep $MARK & touch $UP"),
    ("a session of its own", "setsid sleep $MARK & touch $UP"),
    ("a double fork", "( ( setsid sleep $MARK & ) & ); touch $UP"),
    ("SIGTERM ignored", "(trap '' TERM HUP INT; sleep $MARK; sleep $MARK) & touch $UP"),
    ("a descriptor kept open", "(exec 9>>kept; setsid sleep $MARK) & touch $UP"),
    ("another directory", "(cd / && setsid sleep $MARK) & touch $UP"),
    ("another name and no environment", "setsid env -i sh -c 'exec -a innocent sleep $MARK' & setsid env -i sleep $MARK & touch $UP"),
    ("stopped", "setsid sh -c 'kill -STOP $$; sleep $MARK' & setsid sleep $MARK & touch $UP"),
    ("a nested user namespace", "unshare -U --map-root-user setsid sleep $MARK & setsid sleep $MARK & touch $UP"),
    ("nested PID and mount namespaces", "unshare -pmf --mount-proc setsid sleep $MARK & setsid sleep $MARK & touch $UP"),
    (
        "a mount left behind",
        "mkdir m; mount -t tmpfs none m 2>/dev/null && touch m/x; mount --bind / m 2>/dev/null; (cd m; setsid sleep $MARK) & touch $UP",
    ),
    (
        "out of its control group",
        "setsid sh -c 'for root in /sys/fs/cgroup /sys/fs/cgroup/*; do echo 0 > $root/cgroup.procs; done 2>/dev/null; exec sleep $MARK' & touch $UP",
    ),
    ("rights taken away", "mkdir -p a/b; touch a/b/c; chmod 0 a/b a; setsid sleep $MARK & touch $UP"),
    (
        "shared memory and a fifo",
        "ipcmk -M 4096 >/dev/null 2>&1; ipcmk -Q >/dev/null 2>&1; mkfifo f; setsid sh -c 'sleep $MARK < f' & sleep $MARK & touch $UP",
    ),
    ("temporary files", "mktemp > $UP.1; mktemp -d > $UP.2; setsid sleep $MARK & touch $UP"),
];
