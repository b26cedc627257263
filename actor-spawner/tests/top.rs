//! Does `teamster top` show what runs, live, and give the terminal back as it was?
use std::process::Command;

use rustix::process::Signal;
use teamster::{Error, open_nursery, rpc};

#[path = "support/pty.rs"]
mod pty;
#[path = "support/tool.rs"]
mod tool;
use pty::Pty;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn hang() {
    std::future::pending().await
}

fn top() -> Pty {
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.args(["top", "--every", "0.1"]);
    for variable in ["TEAMSTER_DIR", "HOME", "XDG_RUNTIME_DIR"] {
        std::env::var_os(variable).map(|value| command.env(variable, value));
    }
    Pty::start(&command)
}

/// Where the terminal's person is: the runtime serves what the tool asks.
async fn at_a_terminal<T: Send + 'static>(act: impl FnOnce(Pty) -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(|| act(top())).await.expect("it does not panic")
}

/// A cell of an actor's row, by its column.
fn cell<'a>(text: &'a str, name: &str, column: usize) -> &'a str {
    let row = text.lines().find(|line| line.contains(name)).unwrap_or_default();
    let behind = row.split_once(name).map_or("", |(_, rest)| rest);
    behind.split_whitespace().nth(column).unwrap_or_default()
}

/// Columns behind the name: the pid, two words of the state, CPU%, RSS.
const PID: usize = 0;
const RATE: usize = 5;
const IN_FLIGHT: usize = 6;
const P99: usize = 10;

#[teamster::test]
async fn it_shows_the_tree_live_and_q_gives_the_terminal_back() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let (caller, pid) = (frank.clone(), frank.aid().pid().to_string());
        let calls = async {
            let hanging = frank.run(hang());
            let calling = async {
                loop {
                    caller.run(add(1, 2)).await?;
                }
                #[expect(unreachable_code, reason = "it says which error the loop ends with")]
                Ok::<(), Error>(())
            };
            tokio::try_join!(hanging, calling)
        };
        let person = at_a_terminal(move |mut top| {
            let text = top.shows("└─ frank");
            assert!(text.contains("trees 1  actors 2") && text.contains("sorted by tree"), "{text}");
            assert_eq!(cell(&text, "frank", PID), pid, "{text}");
            let text = top.until("calls of frank, timed", |text| {
                cell(text, "frank", RATE).trim_end_matches('k').parse::<f64>().is_ok_and(|rate| rate > 1.0)
                    && cell(text, "frank", P99).ends_with('s')
                    && ["1", "2"].contains(&cell(text, "frank", IN_FLIGHT))
            });
            assert!(text.contains("CALLS/S") && text.contains("QUEUED"), "{text}");
            top.types("c");
            let text = top.shows("sorted by cpu");
            assert!(!text.contains("└─ frank"), "{text}");
            top.types("s");
            top.shows("sorted by memory");
            top.types("t");
            top.shows("└─ frank");
            top.resize(10, 100);
            top.until("the keys in the last row of a smaller screen", |text| {
                text.lines().nth(9).is_some_and(|line| line.starts_with("q quit"))
            });
            top.types("q");
            let ended = top.ends();
            assert!(ended.success(), "{ended}");
            top.assert_restored();
        });
        tokio::select! {
            called = calls => panic!("nothing ends them: {called:?}"),
            () = person => {}
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn ctrl_c_and_signals_give_the_terminal_back_too() {
    at_a_terminal(|mut top| {
        top.shows("no trees are running");
        top.types("\x03");
        assert!(top.ends().success());
        top.assert_restored();
    })
    .await;
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        at_a_terminal(move |mut top| {
            top.shows("no trees are running");
            top.signal(signal);
            assert_eq!(top.ends().code(), Some(status));
            top.assert_restored();
        })
        .await;
    }
}

#[teamster::test]
async fn without_a_terminal_it_says_what_to_use() {
    assert!(tool::refused(["top"]).await.contains("top needs a terminal: `teamster ps`"));
}
