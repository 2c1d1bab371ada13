//! Calls of the operators on a device, made from nothing but a problem: for tests that compile kernels for devices which are
//! not there, and for benches.

pub mod delta_rule;
pub mod ends;
pub mod long_convolution;
// Nor does a bench time this.
#[allow(dead_code)]
pub mod linear_state_space;
// Benches time neither this nor Taylor attention.
#[allow(dead_code)]
pub mod positions;
pub mod recurrence;
pub mod selective_scan;
#[allow(dead_code)]
pub mod taylor_attention;
pub mod tokenwise;
pub mod wkv4;

use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer, DeviceRows, Error};

/// Makes a buffer of so many values: memory without content, or numbers.
pub type Fill = fn(&Client, usize, DType) -> Result<DeviceBuffer, Error>;

/// One call, to be repeated.
pub type Launch = Box<dyn FnMut() -> Result<(), Error>>;

/// A form of an operator: makes the inputs of a problem in a type and gives the call.
pub struct CallForm<P> {
    /// `step`, `chunked`, `backward` ...
    pub name: &'static str,
    /// Whether it takes one token of each sequence.
    pub one_token: bool,
    /// Makes the inputs.
    pub prepare: fn(&Maker, P) -> Result<Launch, Error>,
}

/// Every form of an operator over sequences of channels, by the functions of its own module. A step goes on from a state, the others begin
/// without one.
macro_rules! forms_over_sequences {
    () => {
        &[
            CallForm {
                name: "step",
                one_token: true,
                prepare: |make, problem| {
                    let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
                    let state = make.constants(problem.state_len())?;
                    Ok(Box::new(move || {
                        step(&client, &problem, &inputs, Some(&state)).map(drop)
                    }))
                },
            },
            CallForm {
                name: "sequential",
                one_token: false,
                prepare: |make, problem| {
                    let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
                    Ok(Box::new(move || {
                        sequential(&client, &problem, &inputs, None).map(drop)
                    }))
                },
            },
            CallForm {
                name: "chunked",
                one_token: false,
                prepare: |make, problem| {
                    let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
                    Ok(Box::new(move || {
                        chunked(&client, &problem, &inputs, CHUNK_SIZE, None).map(drop)
                    }))
                },
            },
            CallForm {
                name: "backward",
                one_token: false,
                prepare: |make, problem| {
                    let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
                    let cotangents = DeviceCotangents {
                        out: make.rows(problem.batch * problem.time, problem.channels)?,
                        state: None,
                    };
                    Ok(Box::new(move || {
                        backward(&client, &problem, &inputs, None, &cotangents).map(drop)
                    }))
                },
            },
        ]
    };
}
pub(crate) use forms_over_sequences;

/// Makes inputs on a device.
#[derive(Clone)]
pub struct Maker {
    /// Where they are made.
    pub client: Client,
    /// Type of tokens; constants and states are f32.
    pub dtype: DType,
    /// What they hold.
    pub fill: Fill,
}

impl Maker {
    /// f32 values that do not depend on the token.
    pub fn constants(&self, len: usize) -> Result<DeviceBuffer, Error> {
        (self.fill)(&self.client, len, DType::F32)
    }

    /// Rows of tokens.
    pub fn rows(&self, rows: usize, cols: usize) -> Result<DeviceRows, Error> {
        self.rows_as(rows, cols, self.dtype)
    }

    /// Rows of tokens in another type.
    pub fn rows_as(&self, rows: usize, cols: usize, dtype: DType) -> Result<DeviceRows, Error> {
        let buffer = (self.fill)(&self.client, rows * cols, dtype)?;
        DeviceRows::new(buffer, 0, rows, cols, cols)
    }
}
