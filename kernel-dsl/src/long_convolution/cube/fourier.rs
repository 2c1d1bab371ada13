//! The convolution by Fourier transforms: for many taps and tokens.

use std::ops::Range;

use cubecl::ir::AddressType;
use cubecl::prelude::*;

use super::operands::{Added, Given, Present, cotangent, longest};
use super::spectra::{
    correlate_kernel, fold_cotangent_kernel, fold_input_kernel, fold_taps_kernel, input_kernel,
    output_kernel, product_kernel, pull_back_kernel, taps_kernel,
};
use super::transform::Transform;
use super::{PullBack, UNITS};
use crate::cube::{Client, DeviceBuffer, Error, Limits, address_type, cubes};
use crate::long_convolution::problem::Reach;
use crate::long_convolution::{DeviceGradients, DeviceInputs, DeviceOutputs, Problem};

/// Values of a spectrum beyond which sequences are transformed one after another: what they take together should leave room for the rest.
const MANY_VALUES: usize = 1 << 27;

pub(super) fn forward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    outputs: &DeviceOutputs,
) -> Result<(), Error> {
    let spectra = Spectra::new(client, problem, inputs, longest(inputs, outputs))?;
    for sequences in spectra.groups() {
        let signal = spectra.signal(&sequences)?;
        let found = spectra.products(&signal, sequences.len())?;
        spectra.transform.inverse(&found, problem.outputs())?;
        spectra.write(&found, &sequences, outputs)?;
    }
    Ok(())
}

pub(super) fn backward(call: &PullBack, gradients: &DeviceGradients) -> Result<(), Error> {
    let PullBack {
        client,
        problem,
        inputs,
        ..
    } = *call;
    let by_out = call.cotangents.out.as_ref();
    let lengths = [
        inputs.input.buffer().len(),
        inputs.kernel.len(),
        by_out.map_or(0, |rows| rows.buffer().len()),
        call.cotangents.tail.as_ref().map_or(0, DeviceBuffer::len),
    ];
    let longest = lengths.into_iter().fold(gradients.input.len(), usize::max);
    let spectra = Spectra::new(client, problem, inputs, longest)?;
    let by_kernels = spectra.transform.spectrum(1, problem.outputs())?;
    for sequences in spectra.groups() {
        let signal = spectra.signal(&sequences)?;
        let seen = spectra.seen(call, &sequences)?;
        spectra.correlate(&signal, &seen, &by_kernels, &sequences)?;
        let by_input = spectra.pull_back(&seen, sequences.len())?;
        spectra.transform.inverse(&by_input, problem.channels)?;
        spectra.write_input(call, &by_input, &sequences, &gradients.input)?;
    }
    spectra.transform.inverse(&by_kernels, problem.outputs())?;
    spectra.write_taps(&by_kernels, &gradients.kernel, false)?;
    match &gradients.later_kernel {
        Some(kernel) => spectra.write_taps(&by_kernels, kernel, true),
        None => Ok(()),
    }
}

/// A convolution whose kernels have been transformed.
struct Spectra<'a> {
    client: &'a Client,
    problem: &'a Problem,
    inputs: &'a DeviceInputs,
    reach: Reach,
    transform: Transform<'a>,
    /// Spectra of the kernels of all outputs, divided by the number of points.
    kernels: DeviceBuffer,
    /// Sequences that are transformed at once.
    at_once: usize,
    /// How the largest buffer is indexed.
    address: AddressType,
}

/// The size of a launch.
type Units = (CubeCount, CubeDim);

impl<'a> Spectra<'a> {
    /// `longest` is the largest buffer beside the spectra.
    fn new(
        client: &'a Client,
        problem: &'a Problem,
        inputs: &'a DeviceInputs,
        longest: usize,
    ) -> Result<Self, Error> {
        let reach = problem.reach();
        let transform = Transform::new(client, reach.places())?;
        let one = 2 * transform.points * problem.outputs().max(problem.channels);
        let largest = usize::try_from(Limits::of(client).buffer_bytes / 4).unwrap_or(usize::MAX);
        let at_once = (largest.min(MANY_VALUES) / one.max(1)).clamp(1, problem.batch.max(1));
        let spectra = Self {
            client,
            problem,
            inputs,
            reach,
            kernels: transform.spectrum(1, problem.outputs())?,
            address: address_type(client, longest.max(at_once * one))?,
            transform,
            at_once,
        };
        spectra.transform_kernels()?;
        Ok(spectra)
    }

    /// The sequences, as many together as are transformed at once.
    fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        let (batch, at_once) = (self.problem.batch, self.at_once);
        (0..batch)
            .step_by(at_once)
            .map(move |first| first..(first + at_once).min(batch))
    }

    fn units(&self, total: usize) -> Result<Units, Error> {
        let count = cubes(self.client, total.div_ceil(UNITS))?;
        Ok((count, CubeDim::new_1d(UNITS as u32)))
    }

    fn dtype(&self) -> ElemType {
        self.inputs.input.dtype().elem()
    }

    fn transform_kernels(&self) -> Result<(), Error> {
        let total = self.kernels.len() / 2;
        let (count, dim) = self.units(total)?;
        fold_taps_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            Given::of(self.problem, self.inputs),
            self.transform.turns(),
            self.kernels.arg(),
            self.reach.ahead,
            self.reach.later,
            self.reach.shift,
            total,
            self.inputs.later_kernel.is_some(),
            self.dtype(),
        );
        self.transform.forward(&self.kernels, self.problem.outputs())
    }

    /// Spectra of the inputs u of some sequences.
    fn signal(&self, sequences: &Range<usize>) -> Result<DeviceBuffer, Error> {
        let channels = self.problem.channels;
        let signal = self.transform.spectrum(sequences.len(), channels)?;
        let total = signal.len() / 2;
        let (count, dim) = self.units(total)?;
        fold_input_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            Given::of(self.problem, self.inputs),
            self.transform.turns(),
            sequences.start,
            signal.arg(),
            total,
            self.dtype(),
        );
        self.transform.forward(&signal, channels)?;
        Ok(signal)
    }

    /// Spectra of the outputs: products of those of inputs and kernels.
    fn products(&self, signal: &DeviceBuffer, sequences: usize) -> Result<DeviceBuffer, Error> {
        let outputs = self.problem.outputs();
        let found = self.transform.spectrum(sequences, outputs)?;
        let total = found.len() / 2;
        let (count, dim) = self.units(total)?;
        product_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            signal.arg(),
            self.kernels.arg(),
            found.arg(),
            self.transform.points,
            self.problem.channels,
            outputs,
            total,
        );
        Ok(found)
    }

    /// Output and tail of points.
    fn write(&self, found: &DeviceBuffer, sequences: &Range<usize>, to: &DeviceOutputs) -> Result<(), Error> {
        let total = sequences.len() * self.reach.positions * self.problem.outputs();
        let (count, dim) = self.units(total)?;
        output_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            found.arg(),
            self.transform.turns(),
            sequences.start,
            Given::of(self.problem, self.inputs),
            Added::of(self.problem, self.inputs),
            to.out.arg(),
            to.tail.arg(),
            self.reach.positions,
            total,
            Present::of(self.inputs),
            self.dtype(),
        );
        Ok(())
    }

    /// Spectra of the cotangents Ȳ of some sequences.
    fn seen(&self, call: &PullBack, sequences: &Range<usize>) -> Result<DeviceBuffer, Error> {
        let outputs = self.problem.outputs();
        let seen = self.transform.spectrum(sequences.len(), outputs)?;
        let total = seen.len() / 2;
        let ((count, dim), (by_out, by_tail)) = (self.units(total)?, call.seen());
        fold_cotangent_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            cotangent(call),
            self.transform.turns(),
            sequences.start,
            seen.arg(),
            self.reach.positions,
            total,
            by_out,
            by_tail,
            self.dtype(),
        );
        self.transform.forward(&seen, outputs)?;
        Ok(seen)
    }

    /// Adds what some sequences give to that of K̄.
    fn correlate(
        &self,
        signal: &DeviceBuffer,
        seen: &DeviceBuffer,
        by_kernels: &DeviceBuffer,
        sequences: &Range<usize>,
    ) -> Result<(), Error> {
        let total = by_kernels.len() / 2;
        let (count, dim) = self.units(total)?;
        correlate_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            signal.arg(),
            seen.arg(),
            by_kernels.arg(),
            self.transform.points,
            self.problem.channels,
            self.problem.outputs(),
            sequences.len(),
            total,
            sequences.start > 0,
        );
        Ok(())
    }

    /// Spectra of ū, from those of the cotangents.
    fn pull_back(&self, seen: &DeviceBuffer, sequences: usize) -> Result<DeviceBuffer, Error> {
        let channels = self.problem.channels;
        let by_input = self.transform.spectrum(sequences, channels)?;
        let total = by_input.len() / 2;
        let (count, dim) = self.units(total)?;
        pull_back_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            self.kernels.arg(),
            seen.arg(),
            by_input.arg(),
            self.transform.points,
            channels,
            self.problem.outputs(),
            total,
        );
        Ok(by_input)
    }

    /// Writes ū of some sequences, from the points that its spectra are transformed back to.
    fn write_input(
        &self,
        call: &PullBack,
        by_input: &DeviceBuffer,
        sequences: &Range<usize>,
        to: &DeviceBuffer,
    ) -> Result<(), Error> {
        let total = sequences.len() * self.problem.time * self.problem.channels;
        let ((count, dim), (by_out, by_tail)) = (self.units(total)?, call.seen());
        input_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            by_input.arg(),
            self.transform.turns(),
            sequences.start,
            Given::of(self.problem, self.inputs),
            cotangent(call),
            to.arg(),
            total,
            Present::of(self.inputs),
            by_out,
            by_tail,
            self.dtype(),
        );
        Ok(())
    }

    /// K̄ or K̄′ of points.
    fn write_taps(&self, by_kernels: &DeviceBuffer, to: &DeviceBuffer, later: bool) -> Result<(), Error> {
        let (count, dim) = self.units(to.len())?;
        taps_kernel::launch(
            self.client,
            count,
            dim,
            self.address,
            by_kernels.arg(),
            self.transform.turns(),
            to.arg(),
            self.problem.taps,
            if later { self.reach.later } else { self.reach.ahead },
            self.reach.shift,
            self.problem.outputs(),
            to.len(),
            later,
        );
        Ok(())
    }
}
