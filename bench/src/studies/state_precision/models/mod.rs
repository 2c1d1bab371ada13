//! Models whose recurrent states are stored in types of fewer bits, token by token beside the same model with states in f32.
//!
//! | module | what is in it |
//! |---|---|
//! | [`config`] | which models, what they read, and under which mitigations |
//! | [`subject`] | a model that is loaded, or drawn, and the ids that it reads |
//! | [`mod@measure`] | one model under one mitigation with every type |
//! | [`report`] | how far predictions are off, and up to where a type is safe |
//! | [`page`] | their tables and pictures |

pub mod config;
pub mod measure;
pub mod page;
pub mod report;
pub mod subject;
