//! The operators on a device, through CubeCL.

use serde_json::{Value, json};
use spillway_kernel_dsl::cube::{Client, DType, Device as CubeDevice, DeviceBuffer, Error};

use super::ceilings::Ceilings;
use super::work::Arithmetic;
use super::{
    EXPONENTIAL, Failure, Kernel, Run, Work, delta_rule, long_convolution, recurrence, selective_scan,
    taylor_attention, tokenwise, values, wkv4,
};
use calls::{CallForm, Maker};

#[path = "../../../kernel-dsl/tests/support/calls/mod.rs"]
mod calls;
mod peak;

/// A device, by the runtime that reaches it.
pub struct Device {
    runtime: String,
    client: Client,
}

impl Device {
    /// The first device of a runtime: `wgpu` or `cuda`.
    ///
    /// # Errors
    /// When there is none, or the runtime is not compiled in.
    pub fn named(runtime: &str) -> Result<Self, Failure> {
        let devices = CubeDevice::enumerate_all();
        let of_runtime =
            |device: &&CubeDevice| format!("{:?}", device.runtime()).eq_ignore_ascii_case(runtime);
        let Some(device) = devices.iter().find(of_runtime) else {
            return Err(format!(
                "SPILLWAY_BENCH_DEVICE={runtime} names no device of this machine; there are {devices:?} \
                 (a runtime is there with the bench crate's feature of its name)"
            )
            .into());
        };
        Ok(Self {
            runtime: runtime.to_owned(),
            client: device.client(),
        })
    }

    /// A large copy and large matrix products on this device.
    pub fn ceilings(&self) -> Result<Ceilings, Failure> {
        peak::ceilings(&self.runtime, &self.client)
    }

    /// Whether the device is a processor that runs kernels in software; large shapes would take minutes there.
    fn is_software(&self) -> bool {
        spillway_kernel_dsl::cube::Limits::of(&self.client).software
    }

    /// Every operator with its kernels.
    pub fn groups(&self) -> Vec<(&'static str, Vec<Kernel>)> {
        let scan = |time| selective_scan::Problem {
            time,
            ..selective_scan::MAMBA_130M
        };
        let wkv = |time| wkv4::Problem {
            time,
            ..wkv4::RWKV4_169M
        };
        let name = "mamba2_130m";
        vec![
            ("recurrence", self.recurrences()),
            ("delta_rule", self.delta_rules()),
            ("taylor_attention", self.taylor_attentions()),
            (
                "selective_scan",
                self.kernels(
                    calls::selective_scan::FORMS,
                    "mamba_130m",
                    [scan(1), scan(2048)],
                    selective_scan::sizes,
                    selective_scan::work,
                ),
            ),
            (
                "wkv4",
                self.kernels(
                    calls::wkv4::FORMS,
                    "rwkv4_169m",
                    [wkv(1), wkv(2048)],
                    wkv4::sizes,
                    wkv4::work,
                ),
            ),
            (
                "causal_conv1d",
                self.kernels(
                    calls::tokenwise::CONVOLUTION,
                    name,
                    [1, 2048].map(tokenwise::convolution_problem),
                    tokenwise::convolution_sizes,
                    tokenwise::convolution_work,
                ),
            ),
            (
                "long_convolution",
                self.kernels(
                    calls::long_convolution::FORMS,
                    "s4_h256_l4096",
                    [long_convolution::problem(4096); 2],
                    long_convolution::sizes,
                    long_convolution::work,
                ),
            ),
            (
                "gated_norm",
                self.kernels(
                    calls::tokenwise::NORM,
                    name,
                    [1, 2048].map(tokenwise::norm_problem),
                    tokenwise::norm_sizes,
                    tokenwise::norm_work,
                ),
            ),
            (
                "step_size",
                self.kernels(
                    calls::ends::STEP_SIZE,
                    "rows2048_24",
                    [[2048, 24]; 2],
                    |[rows, heads]| json!({ "rows": rows, "heads": heads }),
                    |&[rows, heads], form| {
                        let passes = if form == "backward" { 2 } else { 1 };
                        let len = rows * heads;
                        Work::in_place(rows, passes * len * 2 * EXPONENTIAL, 3 * len)
                    },
                ),
            ),
            (
                "cross_entropy",
                self.kernels(
                    calls::ends::CROSS_ENTROPY,
                    "50280_rows64",
                    [[64, 50_280]; 2],
                    |[rows, classes]| json!({ "rows": rows, "classes": classes }),
                    |&[rows, classes], form| {
                        let passes = if form == "backward" { 2 } else { 1 };
                        let len = rows * classes;
                        Work::in_place(rows, len * (EXPONENTIAL + 2), passes * len)
                    },
                ),
            ),
        ]
    }

    fn delta_rules(&self) -> Vec<Kernel> {
        let kernels = |(name, problem): (&'static str, delta_rule::Problem)| {
            let token = delta_rule::Problem { time: 1, ..problem };
            self.kernels(
                calls::delta_rule::FORMS,
                name,
                [token, problem],
                delta_rule::sizes,
                delta_rule::work,
            )
        };
        delta_rule::SHAPES.into_iter().flat_map(kernels).collect()
    }

    /// Based, and the same behind a prefix, from a single prompt to what fills a GPU.
    fn taylor_attentions(&self) -> Vec<Kernel> {
        let shapes: &[(usize, usize)] = match self.is_software() {
            true => &[(1, 2048)],
            false => &[(1, 2048), (1, 32_768), (16, 32_768), (64, 2048)],
        };
        type Shape = fn(usize, usize) -> taylor_attention::Problem;
        let kinds: [(&str, Shape); 2] = [
            ("based", taylor_attention::based),
            ("prefix", taylor_attention::prefixed),
        ];
        let kernels = |&(batch, time): &(usize, usize)| {
            kinds.map(|(kind, problem)| {
                self.kernels(
                    calls::taylor_attention::FORMS,
                    &format!("{kind}_h16_16x64_b{batch}"),
                    [1, time].map(|time| problem(batch, time)),
                    taylor_attention::sizes,
                    taylor_attention::work,
                )
            })
        };
        shapes.iter().flat_map(kernels).flatten().collect()
    }

    fn recurrences(&self) -> Vec<Kernel> {
        let software = self.is_software();
        let shapes = recurrence::SHAPES
            .iter()
            .filter(|shape| !shape.large || !software);
        let kernels = |shape: &recurrence::Shape| {
            let problem = shape.problem();
            let token = recurrence::Problem { time: 1, ..problem };
            let name = shape.name.rsplit_once("_t").map_or(shape.name, |(name, _)| name);
            self.kernels(
                calls::recurrence::FORMS,
                name,
                [token, problem],
                recurrence::sizes,
                recurrence::work,
            )
        };
        shapes.flat_map(kernels).collect()
    }

    /// Every form of an operator for one token and for many, in bf16 where the device has it, and in f32.
    fn kernels<P: Copy + 'static>(
        &self,
        forms: &[CallForm<P>],
        shape: &str,
        [token, tokens]: [P; 2],
        sizes: fn(&P) -> Value,
        work: fn(&P, &str) -> Work,
    ) -> Vec<Kernel> {
        let mut kernels = Vec::new();
        for dtype in [DType::BF16, DType::F32] {
            if !dtype.is_supported(&self.client) {
                continue;
            }
            for form in forms {
                let problem = if form.one_token { token } else { tokens };
                let mut sizes = sizes(&problem);
                sizes["type"] = json!(format!("{dtype:?}").to_lowercase());
                let mut work = work(&problem, form.name);
                if dtype == DType::BF16 {
                    // Nearly all of what moves are tokens.
                    work.bytes /= 2;
                    work.working_set /= 2;
                    work.arithmetic = Arithmetic::Bf16Products;
                }
                let make = Maker {
                    client: self.client.clone(),
                    dtype,
                    fill: random,
                };
                let prepare = form.prepare;
                let type_name = sizes["type"].as_str().unwrap_or_default();
                let length = sizes["time"]
                    .as_u64()
                    .map_or(String::new(), |time| format!("_t{time}"));
                kernels.push(Kernel {
                    form: form.name,
                    shape: format!("{shape}{length}_{type_name}"),
                    sizes,
                    work,
                    build: Box::new(move || run(&make, prepare(&make, problem)?)),
                });
            }
        }
        kernels
    }
}

/// Runs a call once, and gives the function that repeats it and waits for the device.
fn run(make: &Maker, mut call: calls::Launch) -> Result<Run, Failure> {
    let client = make.client.clone();
    let wait = move || cubecl::future::block_on(client.sync());
    call()?;
    wait()?;
    Ok(Box::new(move |iterations| {
        for _ in 0..iterations {
            call().expect("the first call succeeded");
        }
        wait().expect("the first call succeeded");
    }))
}

/// Values between −1 and 0, which suit decays as well as everything else.
fn random(client: &Client, len: usize, dtype: DType) -> Result<DeviceBuffer, Error> {
    let values: Vec<f32> = values(len).iter().map(|v| v - 0.5).collect();
    DeviceBuffer::from_f32_as(client, &values, dtype)
}
