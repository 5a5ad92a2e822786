use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::TempDir;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A folder with a hook and what it writes.
struct Folder(TempDir);

impl Folder {
    /// A hook with these lines; `$DIR` is the folder, in which there is a pipe `go` to wait at.
    fn with(lines: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let script = format!("#!/bin/sh\nDIR={}\n{lines}\n", folder.0.path().display());
        fs::write(folder.file("hook"), script).unwrap();
        fs::set_permissions(folder.file("hook"), fs::Permissions::from_mode(0o755)).unwrap();
        let made = std::process::Command::new("mkfifo").arg(folder.file("go")).status().unwrap();
        assert!(made.success());
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn hooks(&self, limit: Duration) -> Hooks {
        let node = NodeId::new(7).unwrap();
        Hooks::new(Settings { path: self.file("hook"), limit, node, cluster: "edge".to_owned() })
    }
}

async fn lines_of(file: &Path, count: usize) -> Vec<String> {
    let lines = timeout(DEADLINE, async {
        loop {
            let text = fs::read_to_string(file).unwrap_or_default();
            if text.lines().count() >= count {
                return text.lines().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    lines.await.unwrap_or_else(|_| panic!("{count} lines in {}", file.display()))
}

async fn ended(hooks: &Hooks, new: State) -> Run {
    let mut last = hooks.last.clone();
    let run = timeout(DEADLINE, last.wait_for(|run| run.as_ref().is_some_and(|run| run.new == new))).await;
    run.unwrap().unwrap().clone().unwrap()
}

#[tokio::test]
async fn a_hook_is_told_both_states_the_node_and_the_cluster() {
    let folder = Folder::with(r#"echo "$1 $2 $# $FORWARDER_NODE $FORWARDER_CLUSTER" >> $DIR/log"#);
    let hooks = folder.hooks(DEADLINE);
    hooks.tell(State::Up);
    let run = ended(&hooks, State::Up).await;
    assert_eq!((run.old, run.failure), (State::Joining, None));
    hooks.tell(State::Up);
    hooks.tell(State::ProxyDown);
    hooks.finish().await;
    assert_eq!(lines_of(&folder.file("log"), 2).await, ["joining up 2 7 edge", "up proxy-down 2 7 edge"]);
}

#[tokio::test]
async fn two_never_run_at_once_and_of_what_changes_meanwhile_the_last_counts() {
    let folder = Folder::with("echo \"$1 $2\" >> $DIR/log; cat $DIR/go; echo \"end $2\" >> $DIR/log");
    let hooks = folder.hooks(DEADLINE);
    hooks.tell(State::Up);
    lines_of(&folder.file("log"), 1).await;
    for state in [State::Draining, State::Up, State::ProxyDown, State::Draining] {
        hooks.tell(state);
        tokio::task::yield_now().await;
    }
    assert_eq!(hooks.last(), None);
    let go = || {
        let pipe = folder.file("go");
        tokio::task::spawn_blocking(move || fs::write(pipe, "").unwrap())
    };
    go().await.unwrap();
    lines_of(&folder.file("log"), 3).await;
    go().await.unwrap();
    hooks.finish().await;
    let log = lines_of(&folder.file("log"), 4).await;
    assert_eq!(log, ["joining up", "end up", "up draining", "end draining"]);
}

#[tokio::test]
async fn a_hook_that_takes_too_long_is_killed_with_all_that_it_started() {
    let folder = Folder::with("sleep 1000 &\necho $! > $DIR/pid; echo stuck >&2; wait");
    let hooks = folder.hooks(Duration::from_millis(500));
    hooks.tell(State::Up);
    let why = ended(&hooks, State::Up).await.failure.unwrap();
    assert!(why.starts_with("it was killed with all that it had started, for it took more than 0.5 s (stuck); hint: "));
    let sleeper = lines_of(&folder.file("pid"), 1).await.remove(0);
    let gone = timeout(DEADLINE, async {
        // A zombie without a parent that waits is gone as well.
        let stat = format!("/proc/{sleeper}/stat");
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    gone.await.unwrap();
}

#[tokio::test]
async fn a_hook_that_fails_is_known_by_its_exit_code_and_its_last_words_and_the_next_runs() {
    let folder = Folder::with("echo first >&2; printf 'birdc: no such protocol' >&2; test $2 = draining || exit 3");
    let hooks = folder.hooks(DEADLINE);
    hooks.tell(State::Up);
    let failure = ended(&hooks, State::Up).await.failure;
    assert_eq!(failure.as_deref(), Some("it has failed with exit code 3 (birdc: no such protocol)"));
    hooks.tell(State::Draining);
    assert_eq!(ended(&hooks, State::Draining).await.failure, None);
}

#[tokio::test]
async fn a_hook_that_cannot_be_started_or_is_killed_says_so() {
    let folder = Folder::with("kill -9 $$");
    let hooks = folder.hooks(DEADLINE);
    hooks.tell(State::Up);
    let failure = ended(&hooks, State::Up).await.failure;
    assert_eq!(failure.as_deref(), Some("it was ended by a signal: signal: 9 (SIGKILL)"));
    fs::remove_file(folder.file("hook")).unwrap();
    hooks.tell(State::Draining);
    let failure = ended(&hooks, State::Draining).await.failure;
    assert_eq!(failure.as_deref(), Some("it cannot be started: No such file or directory (os error 2)"));
}

#[tokio::test]
async fn what_a_hook_leaves_running_is_not_waited_for() {
    let folder = Folder::with("cat $DIR/go &\nexit 0");
    let hooks = folder.hooks(DEADLINE);
    hooks.tell(State::Up);
    assert_eq!(ended(&hooks, State::Up).await.failure, None);
    let go = folder.file("go");
    // Only what still runs reads there: else this would wait for ever.
    timeout(DEADLINE, tokio::task::spawn_blocking(move || fs::write(&go, "").unwrap())).await.unwrap().unwrap();
}

#[tokio::test]
async fn endless_words_are_cut() {
    let folder = Folder::with("head -c 5000000 /dev/zero | tr '\\0' x >&2; exit 1");
    let hooks = folder.hooks(DEADLINE);
    hooks.tell(State::Up);
    let failure = ended(&hooks, State::Up).await.failure.unwrap();
    assert_eq!(failure, format!("it has failed with exit code 1 ({})", "x".repeat(LINE)));
}
