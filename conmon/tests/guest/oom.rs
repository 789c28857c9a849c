//! The files `oom` of containers in memory cgroups of v2, with a runtime that is a script. One boot
//! for all of them.

use std::path::Path;

use crate::common::guest::Guest;
use crate::common::machine::machine;

/// A shell script for `runtime`: it starts the script `container` of its working directory in the
/// cgroup of the container's id, and writes the pid.
const RUNTIME: &str = r#"#!/bin/sh
while [ $# -gt 1 ]; do
  [ "$1" != --pid-file ] || pid_file=$2
  shift
done
setsid sh container &
echo $! >"/sys/fs/cgroup/$1/cgroup.procs"
printf %s $! >"$pid_file"
"#;

/// A shell script for the guest. What the container does at its end follows when its first line is
/// in the log: the cgroup is watched by then, and earlier events do not count. What is there when
/// the exit file appears is printed, which is when engines look for the files.
fn life(name: &str, end: &str) -> String {
    let conmon = env!("CARGO_BIN_EXE_vmon-conmon");
    format!(
        "mkdir /sys/fs/cgroup/{name} /tmp/{name}
        echo 32M >/sys/fs/cgroup/{name}/memory.max
        cd /tmp/{name}
        mkdir bundle persist exits
        mkfifo gate
        echo 'echo up; read go <gate; {end}' >container
        {conmon} -c {name} -u {name} -r /tmp/runtime -b /tmp/{name}/bundle -p /tmp/{name}/pid \\
          -l /tmp/{name}/log --exit-dir /tmp/{name}/exits --persist-dir /tmp/{name}/persist \\
          --full-attach || echo \"{name}: failed with $?\"
        until grep -q up log; do usleep 10000; done
        echo go >gate
        until [ -e exits/{name} ]; do usleep 10000; done
        echo \"{name}: exit codes $(cat exits/{name}) $(cat persist/exit)\"
        find . -name oom -exec stat -c '{name}: %n %a %s' {{}} +"
    )
}

#[test]
fn a_container_killed_at_its_limit_of_memory_in_cgroup_v2_leaves_files_that_say_so() {
    let Some(machine) = machine() else { return };
    let guest = Guest::with_cgroup2()
        .program(Path::new(env!("CARGO_BIN_EXE_vmon-conmon")))
        .script(&format!("cat >/tmp/runtime <<'END'\n{RUNTIME}END\nchmod +x /tmp/runtime"))
        // The monitor has one of its own: engines of other users read the files.
        .script("umask 077")
        .script(&life("eater", "exec tail /dev/zero"))
        .script(&life("killed", "kill -9 $$"));
    let seen = guest.run(machine);
    let reported = |name: &str| {
        let lines = seen.lines().filter_map(|line| line.trim_end().strip_prefix(name));
        let mut lines: Vec<_> = lines.collect();
        lines.sort_unstable();
        lines
    };
    let expected = ["./bundle/oom 644 0", "./persist/oom 644 0", "exit codes 137 137"];
    assert_eq!(reported("eater: "), expected, "{seen}");
    // The end is the same, but memory has not run out.
    assert_eq!(reported("killed: "), ["exit codes 137 137"], "{seen}");
}
