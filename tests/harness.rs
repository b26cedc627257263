//! Does the harness of `#[teamster::test]` see what a test does and what it leaves behind?
use std::future::pending;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use teamster::testing::harness::{TestOptions, run};

/// What the attribute makes of a function.
macro_rules! teamster_test {
    ($(#[$attribute:meta])* $name:ident, $options:expr, $body:expr) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            let _passed = run(concat!(module_path!(), "::", stringify!($name)), $options, $body, || ());
        }
    };
}

fn usual() -> TestOptions {
    TestOptions::default()
}

fn short() -> TestOptions {
    usual().deadline(Duration::from_millis(300))
}

fn sockets() -> PathBuf {
    std::env::var_os("TEAMSTER_DIR").expect("set by the harness").into()
}

teamster_test!(a_body_that_ends_well_passes, usual(), async || {
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(std::env::var("TEAMSTER_GRACE_MS").as_deref(), Ok("200"));
});

teamster_test!(a_result_passes, usual(), async || -> Result<(), std::io::Error> {
    std::fs::read_to_string("/proc/self/stat")?;
    Ok(())
});

teamster_test!(a_runtime_with_threads_leaves_none, usual().worker_threads(3), async || {
    let handle = tokio::runtime::Handle::current();
    assert_eq!(handle.metrics().num_workers(), 3);
    handle.spawn_blocking(|| ()).await.expect("it does nothing");
});

teamster_test!(
    #[should_panic(expected = "the sum is 3")]
    a_panic_is_the_tests_own,
    usual(),
    async || assert_eq!(1 + 1, 3, "the sum is 3")
);

teamster_test!(
    #[should_panic(expected = "the test returned an error: \"no such thing\"")]
    an_error_fails,
    usual(),
    async || Err::<(), _>("no such thing")
);

teamster_test!(
    #[should_panic(expected = "the test returned ExitCode")]
    an_exit_code_that_is_no_success_fails,
    usual(),
    async || std::process::ExitCode::FAILURE
);

teamster_test!(
    #[should_panic(expected = "did not end within 300ms:\n    process ")]
    a_body_that_does_not_end_is_killed,
    short(),
    async || pending::<()>().await
);

#[test]
#[should_panic(
    expected = "the body says why\nwhat_the_body_said_is_told_also_if_its_trees_do_not_end did not end within 300ms"
)]
fn what_the_body_said_is_told_also_if_its_trees_do_not_end() {
    let name = concat!(module_path!(), "::what_the_body_said_is_told_also_if_its_trees_do_not_end");
    let body = async || panic!("the body says why");
    run::<()>(name, short(), body, || {
        loop {
            std::thread::park();
        }
    });
}

teamster_test!(
    #[should_panic(expected = "did not end within 300ms")]
    a_stuck_body_is_killed,
    short(),
    async || -> () {
        loop {
            std::hint::spin_loop();
        }
    }
);

teamster_test!(
    #[should_panic(expected = "ended before its body did: exit status: 0")]
    an_exit_in_the_middle_is_no_success,
    usual(),
    async || -> () { std::process::exit(0) }
);

teamster_test!(
    #[should_panic(expected = "ended before its body did: signal: 6")]
    an_abort_is_told_by_its_signal,
    usual(),
    async || -> () { std::process::abort() }
);

teamster_test!(
    #[should_panic(expected = "left behind:\n    child process")]
    a_child_left_behind_fails,
    usual(),
    async || {
        let cat = Command::new("sleep").arg("1000").spawn().expect("sleep starts");
        drop(cat);
    }
);

teamster_test!(
    #[should_panic(expected = "sleep 1000")]
    a_process_whose_parent_has_ended_fails,
    usual(),
    async || {
        // In a session of its own, and nobody's child that we could find: known by its environment.
        let script = "setsid sleep 1000 >/dev/null 2>&1 &";
        let mut shell = Command::new("sh").args(["-c", script]).spawn().expect("sh starts");
        shell.wait().expect("sh ends");
    }
);

teamster_test!(
    #[should_panic(expected = "left behind:\n    thread ")]
    a_thread_left_behind_fails,
    usual(),
    async || {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
);

teamster_test!(
    #[should_panic(expected = "left behind:\n    descriptor ")]
    a_descriptor_left_behind_fails,
    usual(),
    async || {
        Box::leak(Box::new(std::fs::File::open("/proc/self/stat").expect("it can be read")));
    }
);

teamster_test!(
    #[should_panic(expected = "left behind:\n    the file ")]
    a_socket_left_behind_fails,
    usual(),
    async || {
        drop(UnixListener::bind(sockets().join("s")).expect("its folder is there"));
    }
);

teamster_test!(
    #[ignore = "run by the test below"]
    an_ignored_test,
    usual(),
    async || println!("the ignored body has run")
);

#[test]
fn an_ignored_test_runs_when_asked_and_shows_its_output() {
    let exe = std::env::current_exe().expect("we run");
    let arguments = ["an_ignored_test", "--exact", "--ignored", "--show-output"];
    let output = Command::new(exe).args(arguments).stdin(Stdio::null()).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("the ignored body has run"), "{text}");
}

/// Exclusive tests add a line to a file when they begin and when they end.
mod exclusive {
    use super::*;

    fn alone() -> TestOptions {
        usual().exclusive()
    }

    async fn check() {
        let path = std::env::temp_dir().join(format!("teamster-alone-{}", std::os::unix::process::parent_id()));
        let file = std::fs::File::create_new(&path).expect("no other exclusive test of this run is running");
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(file);
        std::fs::remove_file(path).expect("it is ours");
    }

    teamster_test!(one_runs_alone, alone(), async || check().await);
    teamster_test!(another_runs_alone, alone(), async || check().await);
    teamster_test!(a_third_runs_alone, alone(), async || check().await);
}
