//! How is a table, a name, a time written for people?
use std::time::Duration;

/// The two largest units: `2h05m`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A size in three digits at most: `512`, `3.1M`.
pub(crate) fn bytes(count: u64) -> String {
    let mut size = count as f64;
    let mut units = ["", "K", "M", "G", "T", "P", "E"].iter();
    let mut unit = units.next();
    while size >= 999.5
        && let Some(larger) = units.next()
    {
        size /= 1024.0;
        unit = Some(larger);
    }
    let digits = if unit == Some(&"") || size >= 9.95 { 0 } else { 1 };
    format!("{size:.digits$}{}", unit.unwrap_or(&""))
}

/// A type's name without the modules of the standard library, which nobody writes.
pub(crate) fn short_type(name: &str) -> String {
    let mut short = String::new();
    for part in name.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        let path_end = part.rfind("::").map_or(0, |at| at + 2);
        let is_std = ["alloc::", "core::", "std::"].iter().any(|root| part.starts_with(root));
        short += if is_std { &part[path_end..] } else { part };
    }
    short
}

/// A name is the user's: it must not move the terminal's cursor.
pub(crate) fn printable(name: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    name.chars().map(escaped).collect()
}

/// Columns as wide as their widest cell. Nothing at all without rows.
pub(crate) fn aligned<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let header = header.map(String::from);
    let mut widths = [0; N];
    for row in std::iter::once(&header).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    std::iter::once(&header).chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_two_units() {
        let cases = [(5, "5s"), (60, "1m00s"), (3_599, "59m59s"), (7_500, "2h05m"), (360_000, "4d04h")];
        for (seconds, text) in cases {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_size_has_three_digits_at_most() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1.0K"), (3_250_586, "3.1M"), (1 << 30, "1.0G"), (10_239, "10K")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_type_is_written_as_people_write_it() {
        let name = "core::option::Option<(alloc::vec::Vec<alloc::string::String>, shop::Order)>";
        assert_eq!(short_type(name), "Option<(Vec<String>, shop::Order)>");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["é".into(), "1".into()], ["long name".into(), "2".into()]];
        assert_eq!(aligned(&["A", "B"], &rows), "A          B\né          1\nlong name  2\n");
        assert_eq!(aligned(&["A"], &[]), "");
    }

    #[test]
    fn a_name_does_not_reach_the_terminal_as_a_command() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
