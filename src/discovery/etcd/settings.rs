//! Where is the cluster's etcd, and how does one get in?
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cluster's etcd, as the registrar of a tree: actors of all trees that name the same one find each other, on whatever host.
///
/// Each root registers the names of its tree under a lease of its own, which ends when the root does not renew it any more.
/// Given to [`RootBuilder::registrar`](crate::RootBuilder::registrar); `TEAMSTER_ETCD=http://a:2379,http://b:2379` is the same
/// from outside.
///
/// # Examples
///
/// ```no_run
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// use teamster::discovery::Etcd;
///
/// let etcd = Etcd::new(["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]);
/// teamster::root().name("shop").registrar(etcd).open(async |an| {
///     an.start_actor("till").await?;
///     let stock = teamster::wait_for_actor("stock").await?; // of a tree on another host
///     println!("{} is there", stock.aid());
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[derive(Clone)]
pub struct Etcd {
    pub(super) endpoints: Vec<String>,
    pub(super) prefix: String,
    pub(super) user: Option<(String, String)>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) identity_files: Option<(PathBuf, PathBuf)>,
    pub(super) lease: Duration,
}

impl Etcd {
    /// By the URLs of its members, `http://` or `https://` (cargo feature `tls`). One is enough; with all of them, names can be
    /// registered and looked up as long as etcd has a leader.
    ///
    /// # Examples
    ///
    /// ```
    /// let etcd = teamster::discovery::Etcd::new(["http://10.0.0.1:2379"]);
    /// ```
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Etcd {
        let endpoints = endpoints.into_iter().map(Into::into).map(|url: String| url.trim_end_matches('/').to_owned());
        Etcd {
            endpoints: endpoints.collect(),
            prefix: PREFIX.to_owned(),
            user: None,
            ca_file: None,
            identity_files: None,
            lease: LEASE,
        }
    }

    /// What all keys begin with. Default: `/teamster`. Trees with different prefixes don't see each other.
    ///
    /// # Examples
    ///
    /// ```
    /// let etcd = teamster::discovery::Etcd::new(["http://10.0.0.1:2379"]).prefix("/teamster/staging");
    /// ```
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Etcd {
        self.prefix = prefix.into().trim_end_matches('/').to_owned();
        self
    }

    /// Who we are to etcd, where it has authentication enabled. The role needs to read and write all keys below the prefix.
    ///
    /// # Examples
    ///
    /// ```
    /// let password = std::env::var("ETCD_PASSWORD").unwrap_or_default();
    /// let etcd = teamster::discovery::Etcd::new(["http://10.0.0.1:2379"]).user("teamster", password);
    /// ```
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Etcd {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// A PEM file with the authority that etcd's own certificates are of, for `https://`.
    ///
    /// # Examples
    ///
    /// ```
    /// let etcd = teamster::discovery::Etcd::new(["https://10.0.0.1:2379"]).ca_file("/etc/etcd/ca.pem");
    /// ```
    #[must_use]
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Etcd {
        self.ca_file = Some(path.as_ref().to_owned());
        self
    }

    /// PEM files with a certificate for us and its key, where etcd asks for one (`--client-cert-auth`).
    ///
    /// # Examples
    ///
    /// ```
    /// let etcd = teamster::discovery::Etcd::new(["https://10.0.0.1:2379"])
    ///     .ca_file("/etc/etcd/ca.pem")
    ///     .identity_files("/etc/teamster/etcd.pem", "/etc/teamster/etcd.key");
    /// ```
    #[must_use]
    pub fn identity_files(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Etcd {
        self.identity_files = Some((certificate.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// How long the names of a tree are found on other hosts when its root was killed, or its host is lost. Default: 10 s; from
    /// 2 s to an hour. A third of it is the pause between two renewals.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let etcd = teamster::discovery::Etcd::new(["http://10.0.0.1:2379"]).lease(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub fn lease(mut self, time: Duration) -> Etcd {
        self.lease = time.clamp(SHORTEST_LEASE, LONGEST_LEASE);
        self
    }

    /// What `TEAMSTER_ETCD` says.
    pub(crate) fn from_environment() -> Result<Option<Etcd>, EtcdError> {
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => Ok(Some(Etcd::new(text.split(',').map(str::trim)))),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(EtcdError::NoEndpoint),
        }
    }

    pub(super) fn check(&self) -> Result<(), EtcdError> {
        if self.endpoints.is_empty() {
            return Err(EtcdError::NoEndpoint);
        }
        let refused = |url: &String, reason| Err(EtcdError::Endpoint { url: url.clone(), reason });
        for url in &self.endpoints {
            let (is_secured, host) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
                (Some(host), _) => (false, host),
                (None, Some(host)) => (true, host),
                (None, None) => return refused(url, "it begins with neither http:// nor https://"),
            };
            if host.is_empty() || host.contains(['/', ' ', '@', '?', '#']) {
                return refused(url, "behind http:// a host and a port are expected, and nothing else");
            }
            if is_secured && cfg!(not(feature = "tls")) {
                return refused(url, "for https:// build with the cargo feature `tls`");
            }
            if !is_secured && (self.ca_file.is_some() || self.identity_files.is_some()) {
                return refused(url, "certificates were given, and they need https://");
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Etcd {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// What is wrong with the settings, or with us in etcd's eyes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EtcdError {
    #[error("no member of etcd is named: give URLs as http://10.0.0.1:2379, with commas in {VARIABLE}")]
    NoEndpoint,
    #[error("{url:?} is no address of etcd: {reason} (as http://10.0.0.1:2379)")]
    Endpoint { url: String, reason: &'static str },
    #[cfg(feature = "tls")]
    #[error("could not read {path}, which etcd's certificates are to be checked with: {source}", path = .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("etcd has refused this tree's names: {reason} (`Etcd::user` is who it is to etcd)")]
    Refused { reason: String },
}

const VARIABLE: &str = "TEAMSTER_ETCD";
const PREFIX: &str = "/teamster";
const LEASE: Duration = Duration::from_secs(10);
/// etcd itself grants none below, with its usual timing.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);
const LONGEST_LEASE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(etcd: &Etcd, expected: &str) {
        let said = etcd.check().map_or_else(|error| error.to_string(), |()| "fine".to_owned());
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn a_wrong_setting_says_what_is_right() {
        check(&Etcd::new(["http://a:2379", "http://b:2379/"]), "fine");
        check(&Etcd::new(Vec::<String>::new()), "no member of etcd is named");
        check(&Etcd::new([""]), "neither http:// nor https://");
        check(&Etcd::new(["10.0.0.1:2379"]), "neither http:// nor https://");
        check(&Etcd::new(["http://"]), "neither http:// nor https://"); // its slashes are gone
        check(&Etcd::new(["http://a:2379/v3"]), "a host and a port");
        check(&Etcd::new(["http://a:2379"]).ca_file("ca.pem"), "need https://");
        check(&Etcd::new(["https://a:2379"]), if cfg!(feature = "tls") { "fine" } else { "feature `tls`" });
    }

    #[test]
    fn a_password_is_not_printed() {
        let etcd = Etcd::new(["http://a:2379"]).user("frank", "secret");
        assert!(format!("{etcd:?}").contains("frank") && !format!("{etcd:?}").contains("secret"));
    }
}
