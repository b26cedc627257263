//! How is a finding told?
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Ok,
    /// Something works less well, or not for everybody.
    Warn,
    /// Something does not work.
    Fail,
}

/// What was looked at, what is so, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    what: &'static str,
    says: String,
    mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: &'static str, says: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Ok, what, says: says.into(), mend: None }
    }

    pub(super) fn warn(what: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Warn, what, says: says.into(), mend: Some(mend.into()) }
    }

    pub(super) fn fail(what: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Fail, what, says: says.into(), mend: Some(mend.into()) }
    }
}

/// `warn  descriptors  1024 at once …`, and below it the command.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        writeln!(f, "  {verdict:<4}  {:<13}  {}", self.what, crate::text::printable(&self.says))?;
        match &self.mend {
            Some(mend) => writeln!(f, "  {:<4}  {:<13}  mend it: {mend}", "", ""),
            None => Ok(()),
        }
    }
}

/// The worst of them.
pub(super) fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_stands_below_what_it_mends() {
        let finding = Finding::warn("descriptors", "1024 at once", "ulimit -n 65536");
        let wanted = "  warn  descriptors    1024 at once\n                       mend it: ulimit -n 65536\n";
        assert_eq!(finding.to_string(), wanted);
        let all = [Finding::ok("a", ""), finding, Finding::ok("b", "")];
        assert_eq!((worst(&all), worst(&[])), (Verdict::Warn, Verdict::Ok));
    }
}
