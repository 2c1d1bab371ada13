//! The recurrence at the shapes of published models.

use serde_json::{Value, json};
pub use spillway_kernel_dsl::recurrence::Problem;
use spillway_kernel_dsl::recurrence::{
    Cotangents, DEFAULT_CHUNK_SIZE, GradientBuffers, Inputs, ReadOut, backward, chunked, sequential, step,
};
use spillway_kernel_dsl::{DecayKind, LogDecay};
use spillway_kernel_dsl::{Rows, Sequences};

use super::{Failure, Kernel, Work, values};

/// A shape, by the name of who has it.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Model, its size and the tokens of a sequence, such as `mamba2_130m_t2048`.
    pub name: &'static str,
    /// Sequences, tokens, heads, groups, key and value size.
    sizes: [usize; 6],
    decay: DecayKind,
    read_out: ReadOut,
    /// Whether it is only for devices: a host would take seconds for a call.
    pub large: bool,
}

const fn shape(name: &'static str, sizes: [usize; 6], decay: DecayKind) -> Shape {
    Shape {
        name,
        sizes,
        decay,
        read_out: ReadOut::Inclusive,
        large: false,
    }
}

const fn with_bonus(shape: Shape) -> Shape {
    Shape {
        read_out: ReadOut::Bonus,
        ..shape
    }
}

const fn large(shape: Shape) -> Shape {
    Shape { large: true, ..shape }
}

/// Every shape; the last ones are those that flash-linear-attention times itself with, as simple GLA.
pub const SHAPES: [Shape; 20] = {
    use DecayKind::{None, PerHead, PerHeadToken, PerKeyToken};
    [
        shape("mamba2_130m_t2048", [1, 2048, 24, 1, 128, 64], PerHeadToken),
        shape("gla_h8_64x64_t2048", [1, 2048, 8, 8, 64, 64], PerKeyToken),
        shape("gla_h8_128x128_t2048", [1, 2048, 8, 8, 128, 128], PerKeyToken),
        with_bonus(shape(
            "rwkv6_h8_64x64_t2048",
            [1, 2048, 8, 8, 64, 64],
            PerKeyToken,
        )),
        with_bonus(shape(
            "rwkv6_h8_128x128_t2048",
            [1, 2048, 8, 8, 128, 128],
            PerKeyToken,
        )),
        shape("retnet_h4_256x512_t2048", [1, 2048, 4, 4, 256, 512], PerHead),
        // Based: q and k are Taylor features 1 + d + d² of d = 16.
        shape("based_h16_273x64_t2048", [1, 2048, 16, 16, 273, 64], None),
        shape("small_h4_256x32_t2048", [1, 2048, 4, 4, 256, 32], PerHeadToken),
        large(shape(
            "mamba2_2.7b_t8192",
            [1, 8192, 80, 1, 128, 64],
            PerHeadToken,
        )),
        large(shape(
            "based_h16_273x64_t32768",
            [1, 32768, 16, 16, 273, 64],
            None,
        )),
        large(shape(
            "based_h16_273x64_b16_t32768",
            [16, 32768, 16, 16, 273, 64],
            None,
        )),
        large(shape(
            "based_h16_273x64_b64_t2048",
            [64, 2048, 16, 16, 273, 64],
            None,
        )),
        large(shape(
            "fla_1x8192x96x128",
            [1, 8192, 96, 96, 128, 128],
            PerHeadToken,
        )),
        large(shape(
            "fla_2x16384x16x128",
            [2, 16384, 16, 16, 128, 128],
            PerHeadToken,
        )),
        large(shape(
            "fla_4x2048x16x128",
            [4, 2048, 16, 16, 128, 128],
            PerHeadToken,
        )),
        large(shape(
            "fla_4x4096x64x128",
            [4, 4096, 64, 64, 128, 128],
            PerHeadToken,
        )),
        large(shape(
            "fla_8x2048x32x256",
            [8, 2048, 32, 32, 256, 256],
            PerHeadToken,
        )),
        large(shape("fla_8x1024x8x64", [8, 1024, 8, 8, 64, 64], PerHeadToken)),
        large(shape(
            "fla_gla_4x2048x16x128",
            [4, 2048, 16, 16, 128, 128],
            PerKeyToken,
        )),
        large(shape("fla_gla_8x1024x8x64", [8, 1024, 8, 8, 64, 64], PerKeyToken)),
    ]
};

/// Sequences in a step of one token each: so many that their states come from memory.
const STEP_BATCH: usize = 64;

impl Shape {
    /// The problem of a whole call.
    pub fn problem(&self) -> Problem {
        let [batch, time, heads, groups, key_dim, value_dim] = self.sizes;
        Problem {
            batch,
            time,
            heads,
            groups,
            key_dim,
            value_dim,
            decay: self.decay,
            read_out: self.read_out,
        }
    }
}

/// The sizes by name, for peers.
pub fn sizes(problem: &Problem) -> Value {
    json!({
        "batch": problem.batch,
        "time": problem.time,
        "heads": problem.heads,
        "groups": problem.groups,
        "key_dim": problem.key_dim,
        "value_dim": problem.value_dim,
        "decay": format!("{:?}", problem.decay),
        "read_out": format!("{:?}", problem.read_out),
    })
}

/// What a call does at least. Forward: decay, update and read-out of every value of the state, one multiplication and two
/// multiply-adds. Backward: decay and update again, the decay and update of the state's gradient, and a multiply-add each for
/// the gradients of query, key, value and decay.
pub fn work(problem: &Problem, variant: &str) -> Work {
    let tokens = problem.batch * problem.time;
    let per_token = problem.heads * problem.head_state_len();
    let inputs = tokens * (2 * problem.groups * problem.key_dim + problem.heads * problem.value_dim)
        + problem.decay_len(Sequences::Equal);
    let out = problem.out_len(Sequences::Equal);
    let state = 2 * problem.state_len();
    if variant == "backward" {
        Work::in_place(tokens, 14 * tokens * per_token, 2 * inputs + out + state)
    } else {
        Work::in_place(tokens, 5 * tokens * per_token, inputs + out + state)
    }
}

/// Every shape that is not large: one token alone and for many sequences, and all tokens in every form.
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for shape in SHAPES.iter().filter(|shape| !shape.large) {
        let problem = shape.problem();
        for batch in [1, STEP_BATCH] {
            let token = Problem {
                batch,
                time: 1,
                ..problem
            };
            let name = shape.name.replace("t2048", &format!("b{batch}"));
            kernels.push(kernel(name, token, Variant::Step));
        }
        for variant in [Variant::Sequential, Variant::Chunked, Variant::Backward] {
            kernels.push(kernel(shape.name.to_owned(), problem, variant));
        }
    }
    kernels
}

#[derive(Clone, Copy)]
enum Variant {
    Step,
    Sequential,
    Chunked,
    Backward,
}

fn kernel(name: String, problem: Problem, variant: Variant) -> Kernel {
    let label = match variant {
        Variant::Step => "step",
        Variant::Sequential => "sequential",
        Variant::Chunked => "chunked",
        Variant::Backward => "backward",
    };
    let work = work(&problem, label);
    Kernel::on_host(label, name, sizes(&problem), work, move || {
        let operands = Operands::new(problem);
        let (mut state, mut out) = (values(problem.state_len()), operands.cotangent.clone());
        let mut gradients = GradientBuffers::zeros(&problem, &operands.inputs()?)?;
        Ok(move || {
            let inputs = operands.inputs()?;
            match variant {
                Variant::Step => step(&problem, &inputs, &mut state, &mut out)?,
                Variant::Sequential => sequential(&problem, &inputs, &mut state, &mut out)?,
                Variant::Chunked => chunked(&problem, &inputs, DEFAULT_CHUNK_SIZE, &mut state, &mut out)?,
                Variant::Backward => backward(
                    &problem,
                    &inputs,
                    DEFAULT_CHUNK_SIZE,
                    &state,
                    &operands.cotangents()?,
                    &mut gradients.as_written(),
                )?,
            }
            Ok(())
        })
    })
}

/// Inputs and cotangents of a problem.
struct Operands {
    problem: Problem,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    log_decay: Vec<f32>,
    bonus: Option<Vec<f32>>,
    cotangent: Vec<f32>,
}

impl Operands {
    fn new(problem: Problem) -> Self {
        let rows = problem.batch * problem.time;
        let bonus = problem.read_out == ReadOut::Bonus;
        Self {
            problem,
            query: values(rows * problem.groups * problem.key_dim),
            key: values(rows * problem.groups * problem.key_dim),
            value: values(rows * problem.heads * problem.value_dim),
            // Between −1 and 0.
            log_decay: values(problem.decay_len(Sequences::Equal))
                .iter()
                .map(|v| v - 0.5)
                .collect(),
            bonus: bonus.then(|| values(problem.heads * problem.key_dim)),
            cotangent: values(problem.out_len(Sequences::Equal)),
        }
    }

    fn rows<'a>(&self, values: &'a [f32]) -> Result<Rows<'a>, Failure> {
        let rows = self.problem.batch * self.problem.time;
        Ok(Rows::contiguous(values, rows, values.len() / rows)?)
    }

    fn inputs(&self) -> Result<Inputs<'_>, Failure> {
        Ok(Inputs {
            query: self.rows(&self.query)?,
            key: self.rows(&self.key)?,
            value: self.rows(&self.value)?,
            log_decay: match self.problem.decay {
                DecayKind::None => LogDecay::None,
                DecayKind::PerHead | DecayKind::PerKey => LogDecay::Constant(&self.log_decay),
                DecayKind::PerHeadToken | DecayKind::PerKeyToken => {
                    LogDecay::Token(self.rows(&self.log_decay)?)
                }
            },
            step_size: None,
            bonus: self.bonus.as_deref(),
            skip: None,
            scale: 1.0,
            sequences: Sequences::Equal,
        })
    }

    fn cotangents(&self) -> Result<Cotangents<'_>, Failure> {
        Ok(Cotangents {
            out: self.rows(&self.cotangent)?,
            state: None,
        })
    }
}
