//! Who believes whom on networks? The user's authority for trees and hosts, and the identities that it issues.
mod authority;
mod files;
mod identity;
mod show;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use self::authority::Authority;
use crate::text::printable;

/// What is done with an authority.
#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Makes an authority: a folder with its certificate, its key and its list of what it has revoked.
    Init {
        /// Where. Default: teamster/ca in $XDG_CONFIG_HOME, or in ~/.config.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// How long it is valid.
        #[arg(long, default_value = "3650", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Issues an identity for a machine, a person or a tree: a folder for `TEAMSTER_IDENTITY`.
    ///
    /// Trees whose identities are of one authority believe each other. Copy the folder to where it is used, and keep it
    /// secret: who has it is let in.
    Issue {
        /// Small letters, digits and hyphens.
        name: String,
        /// Its authority. Default: teamster/ca in $XDG_CONFIG_HOME, or in ~/.config.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// The folder that is written. Default: the name.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// How long it is valid, but not longer than its authority.
        #[arg(long, default_value = "365", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Issues it to a name that has one already: writes the new key and certificate over those that are there.
        #[arg(long)]
        renew: bool,
    },
    /// Revokes an identity: who has it is refused wherever the new list has come to.
    Revoke {
        /// Its name, or the beginning of one certificate's serial number.
        identity: String,
        /// Its authority. Default: teamster/ca in $XDG_CONFIG_HOME, or in ~/.config.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
    },
    /// Writes the authority's certificate and its newest list into identity folders.
    ///
    /// What they hold of other authorities stays: so all believe a new authority before the first identity is issued by
    /// it. Only `authorities.pem` and `revoked.pem` are written, which are no secrets.
    Update {
        /// Identity folders.
        #[arg(required = true)]
        identities: Vec<PathBuf>,
        /// Its authority. Default: teamster/ca in $XDG_CONFIG_HOME, or in ~/.config.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// Takes all other authorities out.
        #[arg(long)]
        only: bool,
    },
    /// Shows an authority and what it has issued, or an identity: who, until when, what was revoked.
    Show {
        /// Default: teamster/ca in $XDG_CONFIG_HOME, or in ~/.config.
        folder: Option<PathBuf>,
    },
}

pub(crate) fn ca(command: Ca) -> anyhow::Result<String> {
    match command {
        Ca::Init { folder, days } => init(&or_default(folder)?, days),
        Ca::Issue { name, folder, to, days, renew } => {
            let to = to.unwrap_or_else(|| PathBuf::from(&name));
            issue(&or_default(folder)?, &name, &to, days, renew)
        }
        Ca::Revoke { identity, folder } => revoke(&or_default(folder)?, &identity),
        Ca::Update { identities, folder, only } => update(&or_default(folder)?, &identities, only),
        Ca::Show { folder } => show::show(&or_default(folder)?),
    }
}

fn init(folder: &Path, days: u32) -> anyhow::Result<String> {
    Authority::make(folder, days)?;
    Ok(format!(
        "made an authority in {0}\nits key, {1}, is worth all your trees: keep a copy where nobody gets at it\nnext: teamster \
         ca issue NAME\n",
        shown(folder),
        shown(&folder.join(authority::KEY))
    ))
}

fn issue(folder: &Path, name: &str, to: &Path, days: u32, renew: bool) -> anyhow::Result<String> {
    check_name(name)?;
    let authority = Authority::open(folder)?;
    identity::check_room(to, name, renew)?;
    if !renew {
        authority.check_new(name)?;
    }
    let issued = authority.issue(name, days)?;
    identity::write(to, &authority, &issued)?;
    Ok(format!(
        "issued {name}, valid until {}, in {}\nnext: copy the folder, and start a root with TEAMSTER_IDENTITY set to it\n",
        show::date(issued.ends),
        shown(to)
    ))
}

fn revoke(folder: &Path, identity: &str) -> anyhow::Result<String> {
    let mut authority = Authority::open(folder)?;
    let revoked = authority.revoke(identity)?;
    let lines: String =
        revoked.iter().map(|one| format!("revoked {}, serial {}\n", one.name, one.serial)).collect::<String>();
    Ok(format!(
        "{lines}next: bring {} into every identity folder, by hand or by teamster ca update DIR\n",
        shown(&folder.join(authority::REVOKED))
    ))
}

fn update(folder: &Path, identities: &[PathBuf], only: bool) -> anyhow::Result<String> {
    let mut authority = Authority::open(folder)?;
    authority.write_list()?;
    let mut text = String::new();
    for folder in identities {
        identity::update(folder, &authority, only)?;
        text += &format!("updated {}\n", shown(folder));
    }
    Ok(text)
}

/// What becomes a part of a DNS name, and of no other identity's.
fn check_name(name: &str) -> anyhow::Result<()> {
    let is_label = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    anyhow::ensure!(
        is_label,
        "{} is no name for an identity: it has 1 to 63 small letters, digits and hyphens, and no hyphen at its ends",
        printable(name)
    );
    Ok(())
}

fn or_default(folder: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = folder {
        return Ok(folder);
    }
    let absolute = |variable: &str| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".config")))
        .map(|config| config.join("teamster/ca"))
        .context("neither XDG_CONFIG_HOME nor HOME says where the authority is: say so by --folder")
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}
