//! How is a Python exception an error of ours?
use std::fmt;

use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyType};
use pythonize::PythonizeError;

use super::module::Carried;
use crate::error::{CodecError, Error};
use crate::msg::codec::{DecodeFailure, EncodeFailure};
use crate::msg::ident::Aid;
use crate::msg::remote_error::{Circumstances, RemoteError};

/// An exception, as one of the errors of this actor. One of ours that has gone through Python is itself again.
pub(super) fn error(py: Python<'_>, here: &Aid, raised: &PyErr) -> Error {
    if let Ok(carried) = raised.value(py).getattr("_error")
        && let Ok(carried) = carried.cast::<Carried>()
    {
        return carried.get().0.clone();
    }
    let known = Circumstances {
        type_name: type_name(&raised.get_type(py)),
        location: location(py, raised),
        backtrace: traceback(py, raised),
    };
    Error::Remote(RemoteError::returned(here, &Raised::new(py, raised, &mut Vec::new()), known))
}

/// Something that Python did and did not raise.
pub(super) fn misbehaved(here: &Aid, type_name: &str, message: String) -> Error {
    let known = Circumstances { type_name: type_name.to_owned(), ..Circumstances::default() };
    Error::Remote(RemoteError::returned(here, &Raised { message, cause: None }, known))
}

/// The whole traceback, for a process that ends by it.
pub(super) fn told(py: Python<'_>, raised: &PyErr) -> String {
    traceback(py, raised).unwrap_or_else(|| raised.to_string())
}

/// An exception and those behind it: what stands behind more of them nobody reads.
const MAX_CAUSES: usize = 17;

/// One exception's text, and what it was caused by.
#[derive(Debug)]
struct Raised {
    message: String,
    cause: Option<Box<Raised>>,
}

impl Raised {
    /// `seen` are those around it: an exception may be its own cause's cause.
    fn new(py: Python<'_>, raised: &PyErr, seen: &mut Vec<*mut PyObject>) -> Raised {
        let value = raised.value(py);
        // A text that can't be had is not the failure that is told.
        let message = value.str().map_or_else(|_| "its text can't be had".to_owned(), |text| text_of(&text));
        let cause = raised.cause(py).or_else(|| {
            let context = value.getattr("__context__").ok()?;
            let is_hidden = value.getattr("__suppress_context__").and_then(|hidden| hidden.is_truthy()).unwrap_or(true);
            (!is_hidden && !context.is_none()).then(|| PyErr::from_value(context))
        });
        seen.push(value.as_ptr());
        let is_new = |cause: &PyErr| seen.len() < MAX_CAUSES && !seen.contains(&cause.value(py).as_ptr());
        let cause = cause.filter(is_new).map(|cause| {
            let mut below = Raised::new(py, &cause, seen);
            below.message = format!("{}: {}", type_name(&cause.get_type(py)), below.message);
            Box::new(below)
        });
        Raised { message, cause }
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Raised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// `ValueError`, `package.module.Name`.
fn type_name(raised: &Bound<'_, PyType>) -> String {
    let name = raised.qualname().map_or_else(|_| "exception".to_owned(), |name| name.to_string());
    match raised.module().map(|module| module.to_string()) {
        Ok(module) if module != "builtins" => format!("{module}.{name}"),
        _ => name,
    }
}

/// `file:line` of the innermost frame.
fn location(py: Python<'_>, raised: &PyErr) -> Option<String> {
    let frames = py.import("traceback").ok()?.call_method1("extract_tb", (raised.traceback(py)?,)).ok()?;
    let last = frames.get_item(frames.len().ok()?.checked_sub(1)?).ok()?;
    let file: String = last.getattr("filename").ok()?.extract().ok()?;
    let line: u32 = last.getattr("lineno").ok()?.extract().ok()?;
    Some(format!("{file}:{line}"))
}

fn traceback(py: Python<'_>, raised: &PyErr) -> Option<String> {
    let lines = py.import("traceback").ok()?.call_method1("format_exception", (raised.value(py),)).ok()?;
    let lines = lines.try_iter().ok()?.map(|line| Some(text_of(line.ok()?.cast().ok()?)));
    Some(lines.collect::<Option<String>>()?.trim_end().to_owned())
}

/// A text of Python's. What it has that can't be encoded is shown as an escape: a file's name may hold half of a surrogate pair.
fn text_of(text: &Bound<'_, PyString>) -> String {
    if let Ok(whole) = text.to_str() {
        return whole.to_owned();
    }
    match text.call_method1("encode", ("utf-8", "backslashreplace")) {
        Ok(bytes) => {
            String::from_utf8_lossy(bytes.cast::<PyBytes>().map_or(&[], |bytes| bytes.as_bytes())).into_owned()
        }
        Err(_no_bytes) => text.to_string_lossy().into_owned(),
    }
}

/// A value that Python can't have.
pub(super) fn unencodable<T: ?Sized>(path: &str, what: &str, error: &PythonizeError) -> Error {
    let type_name = std::any::type_name::<T>();
    let failure = EncodeFailure { type_name, path: String::new(), message: error.to_string() };
    Error::Codec(CodecError::encoding(path, what, failure))
}

/// A value of Python's that is not of the wanted type.
pub(super) fn undecodable<T>(path: &str, what: &str, error: &PythonizeError) -> Error {
    let type_name = std::any::type_name::<T>();
    let failure = DecodeFailure { type_name, path: String::new(), message: error.to_string() };
    Error::Codec(CodecError::decoding(path, what, failure))
}
