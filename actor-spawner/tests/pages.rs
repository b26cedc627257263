//! Do a shell and `man` get to know the tool?
use std::process::{Command, Output};

fn teamster(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_teamster")).args(arguments).output().expect("it starts")
}

fn printed(arguments: &[&str]) -> String {
    let output = teamster(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Bash itself is asked what it would complete.
#[test]
fn bash_completes_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("teamster.bash");
    std::fs::write(&script, printed(&["completions", "bash"])).expect("a file");
    let ask = r#"source "$1"; COMP_WORDS=(teamster ca); COMP_CWORD=1; _teamster teamster ca teamster; echo "${COMPREPLY[@]}""#;
    let output = Command::new("bash").args(["-c", ask, "bash"]).arg(&script).output().expect("there is a bash");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "call cancel ca\n", "{output:?}");
}

#[test]
fn other_shells_and_no_shell() {
    for shell in ["zsh", "fish", "elvish"] {
        assert!(printed(&["completions", shell]).contains("cancel"), "{shell}");
    }
    assert_eq!(teamster(&["completions", "csh"]).status.code(), Some(2));
}

#[test]
fn the_manual_has_a_page_for_the_tool_and_for_each_command() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH teamster 1") && page.contains("cancel"), "{page}");
    for command in
        ["ps", "tree", "call", "cancel", "ca", "dump", "log", "top", "serve", "doctor", "attach", "completions", "man"]
    {
        assert!(page.contains(&format!("teamster\\-{command}(1)")), "{command}: {page}");
        let own = printed(&["man", command]);
        assert!(own.contains(&format!(".TH teamster-{command} 1")), "{own}");
    }
    assert!(printed(&["man", "ca", "issue"]).contains(".TH teamster-ca-issue 1"));
    let none = teamster(&["man", "sp"]);
    assert!(
        !none.status.success() && String::from_utf8_lossy(&none.stderr).contains("there is no command sp"),
        "{none:?}"
    );
}
