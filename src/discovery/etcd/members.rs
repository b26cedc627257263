//! Which of etcd's members answers?
//!
//! One client a member, and the one that answered last is asked first: so it is known whom an error is of, and a member that
//! hangs costs its share of the time, not all of it.
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::settings::{Etcd, EtcdError};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// No member has answered in time: what the last ones said. It may be tried again.
    Unreachable(String),
    /// It won't be otherwise next time.
    Refused(String),
    /// The lease has ended, and all keys with it.
    LeaseLost,
}

pub(super) struct Members {
    members: Vec<Member>,
    options: ConnectOptions,
    /// Who is asked first.
    first: AtomicUsize,
}

struct Member {
    url: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl Members {
    pub(super) fn new(etcd: &Etcd) -> Result<Members, EtcdError> {
        etcd.check()?;
        // Without a leader a member knows nothing that can be relied on.
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_auto_token_refresh(true)
            .with_connect_timeout(CONNECT_WITHIN)
            .with_keep_alive(PING_EVERY, PONG_WITHIN)
            .with_keep_alive_while_idle(false); // etcd hangs up on those that ping without asking
        if let Some((name, password)) = &etcd.user {
            options = options.with_user(name, password);
        }
        let options = with_tls(options, etcd)?;
        let member = |url: &String| Member { url: url.clone(), client: Mutex::default() };
        Ok(Members { members: etcd.endpoints.iter().map(member).collect(), options, first: AtomicUsize::new(0) })
    }

    /// Asks one after the other, until one answers or refuses, or the time is over. What is asked may happen twice.
    pub(super) async fn ask<T, A>(&self, deadline: Instant, ask: impl Fn(Arc<Client>) -> A + Sync) -> Result<T, Failure>
    where
        A: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        loop {
            let count = self.members.len();
            let first = self.first.load(Ordering::Relaxed);
            let mut reasons = Vec::new();
            for (asked, index) in (first..first + count).map(|index| index % count).enumerate() {
                let member = &self.members[index];
                let now = Instant::now();
                let share = deadline.saturating_duration_since(now) / u32::try_from(count - asked).unwrap_or(u32::MAX);
                let answer = async { ask(member.client(&self.options).await?).await };
                let reason = match tokio::time::timeout_at(now + share, answer).await {
                    Ok(Ok(answer)) => {
                        self.first.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Ok(Err(error)) => match verdict(&error) {
                        Some(failure) => return Err(failure),
                        None => innermost(&error),
                    },
                    Err(_late) => "no answer".to_owned(),
                };
                reasons.push(format!("{}: {reason}", member.url));
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(Failure::Unreachable(reasons.join(", ")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Member {
    /// Connects when it is first used, unless there is a password to be shown first.
    async fn client(&self, options: &ConnectOptions) -> Result<Arc<Client>, etcd_client::Error> {
        if let Some(client) = self.client.lock().as_ref() {
            return Ok(Arc::clone(client));
        }
        let client = Client::connect([&self.url], Some(options.clone())).await?;
        Ok(Arc::clone(self.client.lock().insert(Arc::new(client))))
    }
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| &member.url)).finish()
    }
}

#[cfg(feature = "tls")]
fn with_tls(options: ConnectOptions, etcd: &Etcd) -> Result<ConnectOptions, EtcdError> {
    use etcd_client::{Certificate, Identity, TlsOptions};

    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|source| EtcdError::File { path: path.clone(), source })
    };
    if !etcd.endpoints.iter().any(|url| url.starts_with("https://")) {
        return Ok(options);
    }
    let mut tls = TlsOptions::new();
    if let Some(path) = &etcd.ca_file {
        tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
    }
    if let Some((certificate, key)) = &etcd.identity_files {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options.with_tls(tls))
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unnecessary_wraps, reason = "as the other one")]
fn with_tls(options: ConnectOptions, _etcd: &Etcd) -> Result<ConnectOptions, EtcdError> {
    Ok(options)
}

/// What another member would say too. `None`: it may know better.
fn verdict(error: &etcd_client::Error) -> Option<Failure> {
    match error {
        etcd_client::Error::GRpcStatus(status) => match status.code() as i32 {
            code::INVALID_ARGUMENT | code::PERMISSION_DENIED | code::FAILED_PRECONDITION | code::UNAUTHENTICATED => {
                Some(Failure::Refused(status.message().to_owned()))
            }
            code::NOT_FOUND => Some(Failure::LeaseLost), // we ask for nothing else that could be missing
            _ => None,
        },
        etcd_client::Error::LeaseKeepAliveError(_) => Some(Failure::LeaseLost),
        _ => None,
    }
}

/// The numbers of gRPC's statuses.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// The cause that says most: "connection refused" rather than "transport error".
fn innermost(error: &etcd_client::Error) -> String {
    let own: &dyn StdError = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(error) => error,
        error => error,
    };
    match std::iter::successors(own.source(), |error: &&dyn StdError| (*error).source()).last() {
        Some(cause) => cause.to_string(),
        None => match error {
            etcd_client::Error::GRpcStatus(status) => status.message().to_owned(),
            error => error.to_string(),
        },
    }
}

/// Between two rounds through all members.
const PAUSE: Duration = Duration::from_millis(50);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A member whose host is gone is noticed while something waits there, after both of these; etcd takes offence at pings more
/// often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
const PONG_WITHIN: Duration = Duration::from_secs(3);
