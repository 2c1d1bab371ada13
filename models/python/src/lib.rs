//! Spillway in Python: models that are loaded, run, continued and diagnosed, on NumPy arrays.
//!
//! The package is `python/spillway`; it imports this extension as `spillway._spillway`, and `_spillway.pyi` beside it has the types.
//!
//! | module | what is in it |
//! |---|---|
//! | `model` | `load`, `shipped`, `Model`: logits, losses, prefill, generation |
//! | `state` | `State`: forked, saved, divided into sequences |
//! | `run` | the same on slices, a segment at a time |
//! | `generation` | what `Model.generate` gives |
//! | `mitigation`, `tokenizer`, `diagnosis` | `Mitigation`, `Tokenizer`, `diagnose` |
//! | `arrays` | ids in, numbers out |
//! | `compute` | the threads that compute while Python goes on, and Ctrl-C |
//! | `errors` | which exception an error becomes |
//!
//! Built without the feature `extension` the crate is empty.

#![cfg(feature = "extension")]

mod arrays;
mod compute;
mod diagnosis;
mod errors;
mod generation;
mod mitigation;
mod model;
mod run;
mod state;
mod text;
mod tokenizer;

use pyo3::prelude::*;

/// What Python's allocator aligns objects to, on 64-bit systems.
const ALIGNMENT: usize = 16;

/// Values lie in Python's objects, where a coarser alignment than its allocator has would be undefined behaviour: such values are boxed.
const _: () = {
    assert!(align_of::<model::PyModel>() <= ALIGNMENT);
    assert!(align_of::<state::PyState>() <= ALIGNMENT);
    assert!(align_of::<generation::PyGeneration>() <= ALIGNMENT);
    assert!(align_of::<mitigation::PyMitigation>() <= ALIGNMENT);
    assert!(align_of::<tokenizer::PyTokenizer>() <= ALIGNMENT);
};

/// What `spillway/__init__.py` makes public.
#[pymodule]
fn _spillway(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("SpillwayError", py.get_type::<errors::SpillwayError>())?;
    module.add_class::<model::PyModel>()?;
    module.add_class::<state::PyState>()?;
    module.add_class::<generation::PyGeneration>()?;
    module.add_class::<mitigation::PyMitigation>()?;
    module.add_class::<tokenizer::PyTokenizer>()?;
    module.add_function(wrap_pyfunction!(model::load, module)?)?;
    module.add_function(wrap_pyfunction!(model::shipped, module)?)?;
    module.add_function(wrap_pyfunction!(model::shipped_text, module)?)?;
    module.add_function(wrap_pyfunction!(mitigation::mitigations, module)?)?;
    module.add_function(wrap_pyfunction!(diagnosis::diagnose, module)?)?;
    module.add_function(wrap_pyfunction!(compute::threads, module)?)?;
    module.add_function(wrap_pyfunction!(compute::set_threads, module)?)?;
    Ok(())
}
