//! What models compute: beside other people's software, beside the equations in f64, and the same however it is asked for.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/derivatives.rs"]
mod derivatives;
#[path = "../../../ssm-core/tests/support/mod.rs"]
mod devices;
#[path = "../common/disturbed.rs"]
mod disturbed;
#[path = "../common/moved.rs"]
mod moved;
#[path = "../common/rounding.rs"]
mod rounding;

mod attention_models;
mod delta_hybrids;
mod equivalence;
mod every_layout;
mod fla_models;
mod golden;
mod interventions;
mod mitigations;
mod prefix;
mod probe;
mod publishers;
mod restarts;
mod rwkv;
mod sashimi;
mod ssm_hybrids;
mod state_spaces;
