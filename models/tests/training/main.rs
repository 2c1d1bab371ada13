//! What trainings do: their data, their optimiser, their weights and gradients, their runs and their tasks.

#[path = "../../../ssm-core/tests/support/mod.rs"]
mod devices;

mod configs;
mod data;
mod diffusion;
mod encoder;
mod masked;
mod optim;
mod tasks;
mod trainer;
mod weights;
