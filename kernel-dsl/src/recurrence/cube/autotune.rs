//! Choosing a plan by measuring.

use cubecl::tune::{AutotuneOutput, LocalTuner, Tunable, TunableSet, local_tuner};

use super::chunked::chunked;
use super::plan::Plan;
use crate::cube::{Client, DeviceBuffer, Error};
use crate::recurrence::problem::{DeviceInputs, DeviceOutputs, Problem};
use crate::sequences::Sequences;

/// Plans that are measured against each other.
const CANDIDATES: usize = 3;

static TUNER: LocalTuner<String, String> = local_tuner!("recurrence");

/// [`chunked`] by the fastest of up to three plans, which comes back too, for the backward pass.
///
/// The first call of each shape measures them, with the time rounded up to a power of two; the choice holds for the process.
///
/// # Errors
/// As for [`chunked`].
pub fn chunked_autotuned(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    state: Option<&DeviceBuffer>,
) -> Result<(DeviceOutputs, Plan), Error> {
    problem.validate_on_device(inputs, state, None)?;
    // So that there is one at least.
    Plan::new(client.properties(), problem, inputs.query.dtype())?;
    let call = Call {
        client: client.clone(),
        problem: *problem,
        inputs: DeviceInputs {
            sequences: Sequences::Equal,
            ..inputs.clone()
        },
        sequences: Owned::new(&inputs.sequences),
        state: state.cloned(),
    };
    let identity = &client.properties().identity;
    let device = format!("{} {}", client.name(), identity.fingerprint);
    let set = TUNER.init(&device, || {
        let set: TunableSet<String, Call, Attempt> = TunableSet::new_cloning_inputs(Call::key);
        (0..CANDIDATES).fold(set, |set, index| {
            let name = format!("plan {index}");
            set.with(Tunable::new(&name, move |call: Call| call.run(index)))
        })
    });
    TUNER.execute(&device, client, set, call).0
}

/// What a candidate gives. The first one always runs, so its errors are results.
struct Attempt(Result<(DeviceOutputs, Plan), Error>);

impl AutotuneOutput for Attempt {}

/// Sequences that own their bounds.
#[derive(Clone)]
enum Owned {
    Equal,
    LeftPadded(Vec<usize>),
    Packed(Vec<usize>),
}

impl Owned {
    fn new(sequences: &Sequences) -> Self {
        match sequences {
            Sequences::Equal => Self::Equal,
            Sequences::LeftPadded(padding) => Self::LeftPadded(padding.to_vec()),
            Sequences::Packed(offsets) => Self::Packed(offsets.to_vec()),
        }
    }

    fn sequences(&self) -> Sequences<'_> {
        match self {
            Self::Equal => Sequences::Equal,
            Self::LeftPadded(padding) => Sequences::LeftPadded(padding),
            Self::Packed(offsets) => Sequences::Packed(offsets),
        }
    }
}

/// A call that owns what it needs.
#[derive(Clone)]
struct Call {
    client: Client,
    problem: Problem,
    inputs: DeviceInputs<'static>,
    sequences: Owned,
    state: Option<DeviceBuffer>,
}

impl Call {
    /// What the choice depends on.
    fn key(&self) -> String {
        let problem = Problem {
            time: self.problem.time.next_power_of_two(),
            ..self.problem
        };
        format!(
            "{problem:?} {} {}",
            self.inputs.query.dtype(),
            self.inputs.gate_type()
        )
    }

    fn run(self, index: usize) -> Result<Attempt, String> {
        let dtype = self.inputs.query.dtype();
        let plans = Plan::candidates(self.client.properties(), &self.problem, dtype);
        let Some(&plan) = plans.get(index) else {
            return Err(format!("this device has {} plans", plans.len()));
        };
        let inputs = DeviceInputs {
            sequences: self.sequences.sequences(),
            ..self.inputs
        };
        let result = chunked(&self.client, &self.problem, &inputs, &plan, self.state.as_ref());
        match result {
            Err(error) if index > 0 => Err(error.to_string()),
            result => Ok(Attempt(result.map(|outputs| (outputs, plan)))),
        }
    }
}
