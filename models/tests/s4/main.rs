//! S4 models in all their forms: read, streamed, trained on tasks, and refused where they cannot be what is asked.

mod forms;
mod images;
mod norms;
mod stored;
mod support;
mod whole_sequences;
