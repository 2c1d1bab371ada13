//! Every operator beside the recurrence, through Burn's autodiff: its gradients are those of its outputs on the CPU, and every
//! adapter computes what the CPU does. The kernels themselves are compared with their f64 definitions in `spillway-kernel-dsl`.

mod calls;
#[path = "../support/mod.rs"]
mod devices;
mod equivalence;
