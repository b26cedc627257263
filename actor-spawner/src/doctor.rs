//! Can this host, and others, do what teamster needs, and what mends it where they can't?
mod finding;
mod here;
mod there;

use std::process::ExitCode;

use self::finding::{Finding, Verdict};

/// Looks at this host and at those that the user's `ssh` reaches by these names: a line for each finding.
pub(crate) fn doctor(hosts: &[String]) -> (String, ExitCode) {
    let mut findings = here::findings();
    let ssh = there::ssh_client();
    let has_ssh = ssh.verdict == Verdict::Ok;
    findings.push(ssh);
    let mut text = section("this host", &findings);
    let mut worst = finding::worst(&findings);
    for host in hosts.iter().filter(|_| has_ssh) {
        let findings = there::findings(host);
        text += &section(host, &findings);
        worst = worst.max(finding::worst(&findings));
    }
    if !has_ssh && !hosts.is_empty() {
        text += "\nthe other hosts were not looked at: there is no ssh here\n";
        worst = Verdict::Fail;
    }
    let code = if worst == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    (text, code)
}

fn section(title: &str, findings: &[Finding]) -> String {
    let lines: String = findings.iter().map(ToString::to_string).collect();
    format!("{}:\n{lines}", crate::text::printable(title))
}
