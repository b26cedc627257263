//! stub
use std::path::Path;
pub(crate) struct Place { pub(crate) pid: u32, pub(crate) tid: u32, pub(crate) ip: usize, pub(crate) line: u32, pub(crate) optimized: bool }
pub(crate) struct Gdb;
#[derive(Debug, thiserror::Error)]
#[error("gdb")]
pub(crate) struct GdbError;
pub(crate) enum Query<'a> { Locals, Print(&'a str), Assign { place: &'a str, value: &'a str } }
impl Gdb {
    pub(crate) fn start(_exe: &Path) -> Result<Gdb, GdbError> { Err(GdbError) }
    pub(crate) fn query(&mut self, _place: &Place, _query: &Query<'_>) -> Result<String, GdbError> { Err(GdbError) }
}
pub(crate) fn interactive(place: &Place, _exe: &Path) -> Vec<String> { vec!["gdb".into(), "-p".into(), place.pid.to_string()] }
pub(crate) fn dap(name: &str, pid: u32) -> String { format!("{{\"type\":\"lldb-dap\",\"request\":\"attach\",\"name\":\"{name}\",\"pid\":{pid}}}") }
