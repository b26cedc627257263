//! What do a shell and `man` know of the tool?
use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// What this shell completes with.
pub(crate) fn completions(mut tool: Command, shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut tool, "teamster", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The manual's page of the tool, or of one of its commands.
pub(crate) fn man(tool: Command, of: Option<&str>) -> anyhow::Result<String> {
    let mut tool = tool.disable_help_subcommand(true);
    tool.build();
    let page = match of {
        None => Man::new(tool),
        Some(of) => {
            let command = tool.find_subcommand(of).with_context(|| format!("there is no command {of}"))?;
            Man::new(command.clone()).title(format!("teamster-{of}"))
        }
    };
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
