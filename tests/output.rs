//! What becomes of what children print?
use std::io::{BufRead, Read};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use teamster::{Error, Output, open_nursery, rpc};

#[path = "support/partner.rs"]
mod partner;

/// Many lines of one letter each, written in pieces that tear them.
#[rpc]
async fn chatter(letter: char, lines: usize) {
    use std::io::Write;
    let line: String = std::iter::repeat_n(letter, 99).collect();
    let mut stderr = std::io::stderr();
    for _ in 0..lines {
        let (one, other) = line.split_at(50);
        stderr.write_all(one.as_bytes()).expect("a pipe");
        stderr.write_all(format!("{other}\n").as_bytes()).expect("a pipe");
    }
}

#[rpc]
async fn print(text: String) {
    println!("{text}");
    eprintln!("{text} to stderr");
}

/// So many bytes without a line's end.
#[rpc]
async fn pour(bytes: usize) {
    use std::io::Write;
    let mut stdout = std::io::stdout();
    stdout.write_all(&vec![b'x'; bytes]).expect("a pipe");
    stdout.flush().expect("a pipe");
}

#[rpc]
async fn pour_for_ever() {
    loop {
        println!("{}", "y".repeat(999));
    }
}

#[rpc]
async fn die(words: String) {
    eprintln!("{words}");
    std::process::abort();
}

#[test]
#[ignore = "a program that the tests start"]
fn program() {
    match partner::name().as_str() {
        "chatter" => partner::exit(chatterers()),
        "farewell" => partner::exit(farewell()),
        "kinds" => partner::exit(kinds()),
        "long" => partner::exit(long()),
        "head" => head(),
        "blocked" => partner::exit(blocked()),
        other => panic!("no program {other:?}"),
    }
}

#[teamster::main]
async fn chatterers() -> Result<(), Error> {
    open_nursery(async |an| {
        for letter in ['a', 'b', 'c', 'd'] {
            drop(an.run_in_actor(chatter(letter, 500))); // the nursery waits for it
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn lines_of_several_children_are_whole() {
    let output = partner::command("chatter").output().expect("it runs");
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stderr).expect("letters");
    let mut counts = std::collections::BTreeMap::new();
    for line in text.lines() {
        let first = line.chars().next().expect("no line is empty");
        assert!(line.len() == 99 && line.chars().all(|letter| letter == first), "torn: {line}");
        *counts.entry(first).or_insert(0) += 1;
    }
    assert_eq!(counts, ['a', 'b', 'c', 'd'].map(|letter| (letter, 500)).into());
}

/// One actor after the other, a grandchild's too: its words come before what we say after its end.
#[teamster::main]
async fn farewell() -> Result<(), Error> {
    for round in 0..20 {
        open_nursery(async |an| Ok(an.run_in_actor(deeper(format!("word {round}"))).await?)).await?;
        println!("after {round}");
    }
    Ok(())
}

#[rpc]
async fn deeper(text: String) -> teamster::Result<()> {
    Ok(open_nursery(async |an| Ok(an.run_in_actor(print(text)).await?)).await?)
}

#[teamster::test]
async fn what_was_printed_is_relayed_before_the_nursery_returns() {
    let output = partner::command("farewell").output().expect("it runs");
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).expect("words");
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("word ") || line.starts_with("after ")).collect();
    let wanted: Vec<String> = (0..20).flat_map(|round| [format!("word {round}"), format!("after {round}")]).collect();
    // libtest has begun the first line.
    assert_eq!(said[said.len() - 39..], wanted[1..], "{text}");
}

#[teamster::main]
async fn kinds() -> Result<(), Error> {
    open_nursery(async |an| {
        for (name, output) in [("nowhere", Output::Null), ("ours", Output::Inherit), ("relayed", Output::Relay)] {
            let actor = an.actor(name).stdout(output).stderr(output).start().await?;
            actor.run(print(name.to_owned())).await?;
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn output_goes_where_it_was_told_to() {
    let output = partner::command("kinds").output().expect("it runs");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("words"));
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.lines().collect::<Vec<_>>(), ["ours to stderr", "relayed to stderr"]);
    assert!(stdout.contains("ours\n") && stdout.contains("relayed\n") && !stdout.contains("nowhere"), "{stdout}");
}

#[teamster::main]
async fn long() -> Result<(), Error> {
    open_nursery(async |an| {
        let actor = an.start_actor("pourer").await?;
        actor.run(pour(200_000)).await?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_line_that_does_not_end_holds_up_nothing() {
    let output = partner::command("long").output().expect("it runs");
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'x').count(), 200_000);
}

fn head() -> ! {
    #[teamster::main]
    async fn run() -> Result<(), Error> {
        open_nursery(async |an| Ok(an.run_in_actor(pour_for_ever()).await?)).await
    }
    partner::exit(run())
}

#[teamster::test]
async fn a_closed_stdout_ends_the_program_quietly() {
    let mut running = partner::start(&mut partner::command("head"));
    running.line("yyy");
    let partner::Running { mut child, stdout, stderr, stdin } = running;
    drop((stdout, stdin));
    let mut errors = String::new();
    stderr.expect("it is piped").read_to_string(&mut errors).expect("words");
    let status = child.wait().expect("it is our child");
    assert_eq!(status.signal(), Some(libc::SIGPIPE), "{status}: {errors}");
    assert_eq!(errors, "");
}

/// Nobody reads our stdout; the end comes all the same.
#[teamster::main]
async fn blocked() -> Result<(), Error> {
    open_nursery(async |an| {
        let pourer = an.start_actor("pourer").await?;
        let pouring = pourer.run(pour_for_ever());
        tokio::select! {
            poured = pouring => panic!("it never ends: {poured:?}"),
            line = partner::heard() => assert_eq!(line.as_deref(), Some("stop")),
        }
        let asked = Instant::now();
        pourer.cancel_actor().await?;
        eprintln!("cancelled {}", asked.elapsed().as_millis());
        Ok(())
    })
    .await?;
    eprintln!("gone");
    Ok(())
}

#[teamster::test]
async fn a_blocked_stdout_does_not_block_a_cancel() {
    let mut running = partner::start(&mut partner::command("blocked"));
    running.line("yyy");
    // From here on nobody reads. The pipe is full when it takes nothing for its writer any more.
    let full = Instant::now() + Duration::from_secs(10);
    let waiting = |pid: u32| {
        let folder = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
        folder.flatten().any(|task| {
            std::fs::read_to_string(task.path().join("wchan")).is_ok_and(|at| at.contains("pipe_write"))
                || std::fs::read_to_string(task.path().join("syscall")).is_ok_and(|call| call.starts_with("1 0x1 "))
        })
    };
    while !waiting(running.child.id()) {
        assert!(Instant::now() < full, "its output thread never waits");
        tokio::time::sleep(Duration::from_millis(1)).await; // the kernel has no event for it
    }
    running.say("stop");
    let mut stderr = std::io::BufReader::new(running.stderr.take().expect("it is piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("words");
    let took: u64 = line.trim().strip_prefix("cancelled ").expect("it was").parse().expect("milliseconds");
    assert!(took < 1200, "{took} ms");
    line.clear();
    stderr.read_line(&mut line).expect("words");
    assert_eq!(line, "gone\n");
    let status = running.child.wait().expect("it is our child");
    assert!(status.success(), "{status}");
}

#[teamster::test]
async fn a_death_has_the_last_words() -> Result<(), Error> {
    let died = open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        frank.run(print("x".repeat(30_000))).await?;
        frank.run(die("so long".to_owned())).await?;
        Ok(())
    })
    .await;
    let Err(Error::ActorDied(death)) = died else { panic!("{died:?}") };
    assert_eq!(death.signal(), Some(libc::SIGABRT));
    assert!(death.stderr_tail().trim_end().ends_with("so long"), "{}", death.stderr_tail());
    assert!(death.stderr_tail().len() <= 16 * 1024);
    Ok(())
}
