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
pub(crate) fn man(tool: Command, of: &[String]) -> anyhow::Result<String> {
    let mut tool = tool.disable_help_subcommand(true);
    tool.build();
    let mut command = &tool;
    for name in of {
        command = command.find_subcommand(name).with_context(|| format!("there is no command {}", of.join(" ")))?;
    }
    let title = std::iter::once("teamster").chain(of.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
    let page = Man::new(command.clone()).title(title);
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
