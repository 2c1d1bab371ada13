//! Vandermonde kernels on a device: roots and what is per mode in f64 on the CPU, rows and sums over positions as CubeCL kernels.
//!
//! | file | what is in it |
//! |---|---|
//! | `positions` | rows that modes make and sums over positions, O(N L) multiply-adds for a channel, with phases in whole numbers |
//! | `on_host` | kernels too long for these phases, on the CPU |
//!
//! Steps, Λ, B, C and states are read, which waits for the device; rows stay where they are. No sum is formed by atomics: the same call
//! gives the same bits on the same device.

mod on_host;
mod positions;

use self::positions::{MOST_POSITIONS, Roots, RowSums, Writing};
use super::channel::{Channel, Made, Sums};
use super::problem::OPERATOR;
use super::pull_back::{Asked, PositionSums, Pulled, Summed, add_up};
use super::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, Inputs, Problem};
use crate::channels::rows_by_channel;
use crate::complex::Complex64;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error};
use crate::operands::ElementTypes;
use crate::rows::Rows;
use crate::shape::Role;

/// As [`kernel`](super::kernel), with operands of a device; waits for it.
///
/// # Errors
/// [`Error`] when a shape, a type or a value is wrong, or when the device fails.
pub fn kernel(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<DeviceOutputs, Error> {
    validate(problem, inputs)?;
    if problem.length > MOST_POSITIONS {
        return on_host::kernel(client, problem, inputs);
    }
    let Problem {
        channels,
        readouts,
        batch,
        modes,
        length,
        ..
    } = *problem;
    let held = Held::new(client, inputs)?;
    let values = held.inputs()?;
    let all = held.channels(problem, &values)?;
    let roots = Roots::new(client, &all)?;
    let rows = |count: usize| DeviceBuffer::empty(client, count * channels * length, DType::F32);
    let kernel = rows(readouts)?;
    make(client, &roots, &all, &kernel, |channel, readout, n| {
        channel.weight(&values, Made::Kernel { readout }, n)
    })?;
    let state_kernel = rows(batch * readouts)?;
    make(client, &roots, &all, &state_kernel, |channel, index, n| {
        let row = Made::Response {
            sequence: index / readouts,
            readout: index % readouts,
        };
        channel.weight(&values, row, n)
    })?;
    let mut next_state = vec![0.0; problem.state_len()];
    if batch > 0 {
        let found = roots.sums(client, &inputs.signal, true)?;
        let mut sums = Sums::new(modes);
        for (row, out) in next_state.chunks_exact_mut((2 * modes).max(1)).enumerate() {
            found.read(row, &mut sums);
            all[row % channels].next_state(&values, row / channels, &sums, out);
        }
    }
    Ok(DeviceOutputs {
        kernel,
        state_kernel,
        next_state: DeviceBuffer::from_f32(client, &next_state)?,
    })
}

/// As [`backward`](super::backward), with operands of a device; waits for it.
///
/// # Errors
/// [`Error`] when a shape, a type or a value is wrong, or when the device fails.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    validate(problem, inputs)?;
    let subject = OPERATOR.on_device(Role::Cotangent, ElementTypes::all(DType::F32));
    cotangents.expect(&subject, &cotangents.extents(problem))?;
    if problem.length > MOST_POSITIONS {
        return on_host::backward(client, problem, inputs, cotangents);
    }
    let Problem {
        channels,
        copies,
        modes,
        ..
    } = *problem;
    let held = Held::new(client, inputs)?;
    let values = held.inputs()?;
    let all = held.channels(problem, &values)?;
    let roots = Roots::new(client, &all)?;
    let next_state = cotangents
        .next_state
        .as_ref()
        .map(|values| values.read(client))
        .transpose()?;
    let next_state = next_state.as_deref();
    let mut sums = DeviceSums::new(client, &roots, &all, inputs, cotangents)?;

    let [mut c, mut state] = [inputs.c.len(), inputs.state.len()].map(|len| vec![0.0; len]);
    let mut by_mode = Vec::with_capacity(channels);
    let mut rows = rows_by_channel(&mut c, 2 * modes, channels);
    let mut states = rows_by_channel(&mut state, 2 * modes, channels);
    let asked = Asked {
        kernel: cotangents.kernel.is_some(),
        responses: cotangents.state_kernel.is_some(),
        next_state,
    };
    for (channel, (c, state)) in all.iter().zip(rows.iter_mut().zip(&mut states)) {
        let mut pulled = Pulled::new(c, state, modes);
        sums.channel = channel.index;
        channel.pull_back(&values, asked, &mut sums, &mut pulled);
        by_mode.push(pulled.by_mode);
    }
    let mut step = vec![0.0; problem.step_count()];
    let [mut a, mut b] = [(); 2].map(|()| vec![0.0; 2 * copies * modes]);
    add_up(problem, &by_mode, &mut step, &mut a, &mut b);
    let upload = |values: &[f32]| DeviceBuffer::from_f32(client, values);
    Ok(DeviceGradients {
        step: upload(&step)?,
        a: upload(&a)?,
        b: upload(&b)?,
        c: upload(&c)?,
        state: upload(&state)?,
        signal: pull_signals(client, &roots, &all, inputs, next_state)?,
    })
}

fn validate(problem: &Problem, inputs: &DeviceInputs) -> Result<(), Error> {
    problem.validate().map_err(Error::problem)?;
    let types = ElementTypes::all(inputs.signal.dtype());
    inputs.expect(&OPERATOR.on_device(Role::Value, types), &inputs.extents(problem))
}

/// What is per mode, on the CPU.
struct Held {
    step: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    state: Vec<f32>,
}

impl Held {
    fn new(client: &Client, inputs: &DeviceInputs) -> Result<Self, Error> {
        Ok(Self {
            step: inputs.step.read(client)?,
            a: inputs.a.read(client)?,
            b: inputs.b.read(client)?,
            c: inputs.c.read(client)?,
            state: inputs.state.read(client)?,
        })
    }

    /// Without the signals, of which nothing here is asked.
    fn inputs(&self) -> Result<Inputs<'_>, Error> {
        Ok(Inputs {
            step: &self.step,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            state: &self.state,
            signal: Rows::contiguous(&[], 0, 0).map_err(Error::problem)?,
        })
    }

    fn channels<'p>(&self, problem: &'p Problem, values: &Inputs) -> Result<Vec<Channel<'p>>, Error> {
        problem.check(&self.step, &self.a).map_err(Error::problem)?;
        let channel = |index| Channel::new(problem, values, index).map_err(Error::problem);
        (0..problem.channels).map(channel).collect()
    }
}

/// Writes rows, channels inside; `weight(channel, index, n)` of the modes of the index-th row of a channel.
fn make(
    client: &Client,
    roots: &Roots,
    channels: &[Channel],
    out: &DeviceBuffer,
    weight: impl Fn(&Channel, usize, usize) -> Complex64,
) -> Result<(), Error> {
    let length = channels.first().map_or(0, |channel| channel.problem.length);
    let rows = out.len() / length.max(1);
    for from_last in [false, true] {
        if from_last && !any_reversed(channels) {
            break;
        }
        let mut weights = Vec::new();
        for row in 0..rows {
            let channel = &channels[row % channels.len()];
            for (n, mode) in channel.modes.iter().enumerate() {
                let weight = match mode.reversed == from_last {
                    true => weight(channel, row / channels.len(), n),
                    false => Complex64::ZERO,
                };
                weights.extend([weight.re as f32, weight.im as f32]);
            }
        }
        let writing = Writing {
            from_last,
            adding: from_last,
        };
        roots.evaluate(client, &weights, out, writing)?;
    }
    Ok(())
}

fn any_reversed(channels: &[Channel]) -> bool {
    channels.iter().any(|channel| channel.any_reversed)
}

/// The gradients of the signals, which reach the loss through the states after them.
fn pull_signals(
    client: &Client,
    roots: &Roots,
    channels: &[Channel],
    inputs: &DeviceInputs,
    next_state: Option<&[f32]>,
) -> Result<DeviceBuffer, Error> {
    let len = inputs.signal.rows() * inputs.signal.cols();
    let Some(next_state) = next_state else {
        return DeviceBuffer::zeros(client, len, inputs.signal.dtype());
    };
    let out = DeviceBuffer::empty(client, len, inputs.signal.dtype())?;
    let mut weights = Vec::new();
    for row in 0..inputs.signal.rows() {
        let channel = &channels[row % channels.len()];
        for n in 0..channel.modes.len() {
            let weight = channel.signal_weight(next_state, row / channels.len(), n);
            weights.extend([weight.re as f32, weight.im as f32]);
        }
    }
    let writing = Writing {
        from_last: true,
        adding: false,
    };
    roots.evaluate(client, &weights, &out, writing)?;
    Ok(out)
}

/// Sums over the rows of all channels, read from the device.
struct DeviceSums {
    /// Sums over the cotangent of K, positions counted from the first and from the last.
    kernel: [Option<RowSums>; 2],
    responses: [Option<RowSums>; 2],
    signal: Option<RowSums>,
    sums: Sums,
    readouts: usize,
    channels: usize,
    /// The channel that is asked for.
    channel: usize,
}

impl DeviceSums {
    fn new(
        client: &Client,
        roots: &Roots,
        channels: &[Channel],
        inputs: &DeviceInputs,
        cotangents: &DeviceCotangents,
    ) -> Result<Self, Error> {
        let reversed = any_reversed(channels);
        let both = |rows: &Option<DeviceRows>| {
            let of = |from_last: bool| match rows {
                Some(rows) if !from_last || reversed => roots.sums(client, rows, from_last).map(Some),
                _ => Ok(None),
            };
            Ok::<_, Error>([of(false)?, of(true)?])
        };
        let problem = channels.first().map(|channel| channel.problem);
        Ok(Self {
            kernel: both(&cotangents.kernel)?,
            responses: both(&cotangents.state_kernel)?,
            signal: match cotangents.next_state {
                Some(_) => Some(roots.sums(client, &inputs.signal, true)?),
                None => None,
            },
            sums: Sums::new(problem.map_or(0, |problem| problem.modes)),
            readouts: problem.map_or(0, |problem| problem.readouts),
            channels: channels.len(),
            channel: 0,
        })
    }
}

impl PositionSums for DeviceSums {
    fn of(&mut self, row: Summed, from_last: bool) -> &Sums {
        let direction = usize::from(from_last);
        let (found, index) = match row {
            Summed::Kernel { readout } => (&self.kernel[direction], readout),
            Summed::Response { sequence, readout } => {
                (&self.responses[direction], sequence * self.readouts + readout)
            }
            Summed::Signal { sequence } => (&self.signal, sequence),
        };
        // Cotangents that are absent are not asked for.
        if let Some(found) = found {
            found.read(index * self.channels + self.channel, &mut self.sums);
        }
        &self.sums
    }
}
