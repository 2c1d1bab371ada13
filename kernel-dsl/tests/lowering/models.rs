//! Every operator's calls at the shapes of published models.

use kernel_dsl::cube::{Client, DType, DeviceBuffer, Error};
use kernel_dsl::recurrence::{DecayKind, Problem as Recurrence, ReadOut};
use kernel_dsl::selective_scan::Problem as Scan;

use super::calls::{Form, Maker, recurrence, selective_scan};

/// Launches an operator once.
type Launch = Box<dyn FnOnce(&Client) -> Result<(), Error>>;

/// One call of an operator.
pub struct Call {
    /// `operator/form/shape/type`.
    pub name: String,
    /// Launches it.
    pub launch: Launch,
}

const fn recurrence(sizes: [usize; 4], decay: DecayKind, read_out: ReadOut) -> Recurrence {
    let [heads, groups, key_dim, value_dim] = sizes;
    Recurrence {
        batch: 1,
        time: 2048,
        heads,
        groups,
        key_dim,
        value_dim,
        decay,
        read_out,
    }
}

const RECURRENCES: [(&str, Recurrence); 5] = {
    use DecayKind::{None, PerHead, PerHeadToken, PerKeyToken};
    use ReadOut::{Bonus, Inclusive};
    [
        ("mamba2", recurrence([24, 1, 128, 64], PerHeadToken, Inclusive)),
        ("gla", recurrence([8, 8, 64, 64], PerKeyToken, Inclusive)),
        ("rwkv6", recurrence([8, 8, 64, 64], PerKeyToken, Bonus)),
        ("retnet", recurrence([4, 4, 256, 512], PerHead, Inclusive)),
        ("based", recurrence([16, 16, 273, 64], None, Inclusive)),
    ]
};

const MAMBA: Scan = Scan {
    batch: 1,
    time: 2048,
    channels: 1536,
    state_dim: 16,
    groups: 1,
};

const TYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

/// Every model in bf16, and one of each operator in the other types.
pub fn calls() -> Vec<Call> {
    let mut calls = Vec::new();
    for (model, problem) in RECURRENCES {
        let token = Recurrence { time: 1, ..problem };
        let types = if model == "mamba2" {
            &TYPES[..]
        } else {
            &TYPES[..1]
        };
        add(
            &mut calls,
            ("recurrence", model),
            recurrence::FORMS,
            [problem, token],
            types,
        );
    }
    let token = Scan { time: 1, ..MAMBA };
    add(
        &mut calls,
        ("selective_scan", "mamba"),
        selective_scan::FORMS,
        [MAMBA, token],
        &TYPES,
    );
    calls
}

/// Adds every form of an operator at a shape in every type; `problems` are that of many tokens and that of one.
fn add<P: Copy + 'static>(
    calls: &mut Vec<Call>,
    (operator, model): (&str, &str),
    forms: &[Form<P>],
    problems: [P; 2],
    types: &[DType],
) {
    for &dtype in types {
        for form in forms {
            let (prepare, problem) = (form.prepare, problems[usize::from(form.one_token)]);
            calls.push(Call {
                name: format!("{operator}/{}/{model}/{dtype:?}", form.name),
                launch: Box::new(move |client| {
                    let make = Maker {
                        client: client.clone(),
                        dtype,
                        fill: DeviceBuffer::empty,
                    };
                    prepare(&make, problem)?()
                }),
            });
        }
    }
}
