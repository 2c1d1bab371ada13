//! One layer of each version of RWKV against the same layer written out in f64, one token after the other, however the tokens
//! are split among calls.

mod channel_mixing;
mod support;
mod version_4;
mod version_7;
mod versions_5_and_6;
