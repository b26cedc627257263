//! How is a value of Python's one of ours? By serde, unless it nests too deep for that.
use pyo3::prelude::*;
use pyo3::types::{
    PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyMapping, PySequence, PySet, PyString, PyTuple,
};
use pythonize::PythonizeError;
use serde::de::{DeserializeOwned, Error as _};

use crate::msg::codec::MAX_DEPTH;

/// The same value.
///
/// # Errors
///
/// It is no `T`, or nests deeper than a value may that travels: so does a list that holds itself.
pub(super) fn from_python<T: DeserializeOwned>(value: &Bound<'_, PyAny>) -> Result<T, PythonizeError> {
    // Serde takes a piece of the stack for each level, and would go on until there is none.
    if !nests_within(value, MAX_DEPTH)? {
        return Err(PythonizeError::custom(format_args!("it nests deeper than {MAX_DEPTH} levels")));
    }
    pythonize::depythonize(value)
}

/// Whether it has no more than so many levels.
fn nests_within(value: &Bound<'_, PyAny>, levels: u16) -> PyResult<bool> {
    for inside in inside_of(value)?.into_iter().flatten() {
        let Some(levels) = levels.checked_sub(1) else { return Ok(false) };
        for item in inside.try_iter()? {
            if !nests_within(&item?, levels)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// All that serde would find in it: the items of a sequence or a set, keys and values of a mapping, fields of a dataclass.
fn inside_of<'py>(value: &Bound<'py, PyAny>) -> PyResult<[Option<Bound<'py, PyAny>>; 2]> {
    if has_nothing_inside(value) {
        return Ok([None, None]);
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        return Ok([Some(value.clone()), None]);
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        return Ok([Some(dict.keys().into_any()), Some(dict.values().into_any())]);
    }
    let is_set = value.is_instance_of::<PySet>() || value.is_instance_of::<PyFrozenSet>();
    if is_set || value.cast::<PySequence>().is_ok() {
        return Ok([Some(value.clone()), None]);
    }
    if let Ok(mapping) = value.cast::<PyMapping>() {
        return Ok([Some(mapping.keys()?.into_any()), Some(mapping.values()?.into_any())]);
    }
    match value.hasattr("__dataclass_fields__")? {
        true => Ok([Some(value.getattr("__dict__")?.call_method0("values")?), None]),
        false => Ok([None, None]), // nothing that serde knows
    }
}

/// What nearly all values are, told apart without a question to Python.
fn has_nothing_inside(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyFloat>()
        || value.is_instance_of::<PyBytes>()
        || value.is_instance_of::<PyByteArray>()
}
