//! What operators that carry no state have in common: a kernel that reads rows and values, and gives rows and values.

/// Implements [`Operator`](super::Operator) by kernels whose declaration has no `state[…]`.
///
/// `inputs` and `output` or `outputs` repeat how the kernel declares them: `R` where there are rows, `V` where there are values. The
/// operator has, beside what is given here,
///
/// - `problem(&self, &kernel::Operands<Vec<usize>, …>) -> kernel::Problem`, from the shapes of the inputs,
/// - `results(&self, kernel::Operands<Spec, …>) -> kernel::Results<Spec, …>`, what the results are like.
///
/// `host` says how the kernel is called on the CPU, with the operator before its arguments; `device` likewise. Where they need nothing of
/// the operator, `functions: forward, backward` names them, in `kernel` and `kernel::cube`. Kernels on devices take rows in the type of
/// the first input, and gates in f32.
macro_rules! over_rows {
    (
        $operator:ident, $name:expr, $kernel:ident;
        inputs<$($input:ident),+>;
        $number:ident<$($result:ident),+>;
        functions: $forward:ident, $backward:ident;
    ) => {
        $crate::backend::over_rows! {
            $operator, $name, $kernel;
            inputs<$($input),+>;
            $number<$($result),+>;
            host: {
                forward(_, problem, inputs, found): $kernel::$forward(problem, inputs, found),
                backward(_, problem, inputs, cotangents, found): {
                    $kernel::$backward(problem, inputs, cotangents, found)
                },
            }
            device: {
                forward(_, client, problem, inputs): $kernel::cube::$forward(client, problem, inputs),
                backward(_, client, problem, inputs, cotangents): {
                    $kernel::cube::$backward(client, problem, inputs, cotangents)
                },
            }
        }
    };
    (
        $operator:ident, $name:expr, $kernel:ident;
        inputs<$($input:ident),+>;
        $number:ident<$($result:ident),+>;
        host: {
            forward($($in_forward:pat_param),+): $forward:expr,
            backward($($in_backward:pat_param),+): $backward:expr $(,)?
        }
        device: {
            forward($($in_device_forward:pat_param),+): $device_forward:expr,
            backward($($in_device_backward:pat_param),+): $device_backward:expr $(,)?
        }
    ) => {
        impl $crate::backend::Operator for $operator {
            type Inputs = $kernel::Operands<$($crate::backend::by_kind!($input => (), ())),+>;
            type Outputs = $kernel::Results<$($crate::backend::by_kind!($result => (), ())),+>;

            fn name(&self) -> &'static str {
                $name
            }

            fn outputs(
                &self,
                inputs: $crate::backend::In<Self, $crate::backend::Spec>,
            ) -> $crate::backend::Out<Self, $crate::backend::Spec> {
                self.results(inputs)
            }

            fn forward_flex(
                &self,
                inputs: $crate::backend::In<Self, burn_flex::FlexTensor>,
            ) -> $crate::backend::Out<Self, burn_flex::FlexTensor> {
                use $crate::backend::{by_kind, flex::{self, RowTensor}};
                let problem = self.problem(&flex::shapes::<Self::Inputs>(&inputs));
                let specs = self.results(flex::specs::<Self::Inputs>(&inputs));
                let held = inputs.map($(by_kind!($input => |_, t| RowTensor::of_tokens(t), |_, t| flex::contiguous(t))),+);
                let views = held.as_ref().map($(by_kind!($input => |_, rows| rows.view(), |_, t| flex::slice(t))),+);
                let mut found = flex::zeros::<Self::Outputs>(&specs);
                flex::validated(match (self, &problem, &views, &mut found.as_written()) {
                    ($($in_forward),+) => $forward,
                });
                flex::tensors_of::<Self::Outputs>(found, specs)
            }

            fn backward_flex(
                &self,
                inputs: $crate::backend::In<Self, burn_flex::FlexTensor>,
                cotangents: $crate::backend::Out<Self, Option<burn_flex::FlexTensor>>,
            ) -> $crate::backend::In<Self, burn_flex::FlexTensor> {
                use $crate::backend::{by_kind, flex::{self, RowTensor}, seen};
                let shapes = flex::shapes::<Self::Inputs>(&inputs);
                let mut found = flex::buffers::<Self::Inputs>(&inputs);
                let problem = self.problem(&shapes);
                let held = inputs.map($(by_kind!($input => |_, t| RowTensor::of_tokens(t), |_, t| flex::contiguous(t))),+);
                let views = held.as_ref().map($(by_kind!($input => |_, rows| rows.view(), |_, t| flex::slice(t))),+);
                let cotangents = cotangents.map($(by_kind!($result =>
                    |_, t| seen!($number, t, RowTensor::of_tokens),
                    |_, t| seen!($number, t, flex::contiguous)
                )),+);
                let cotangents = cotangents.as_ref().map($(by_kind!($result =>
                    |_, held| seen!(&$number, held, RowTensor::view),
                    |_, held| seen!(&$number, held, flex::slice)
                )),+);
                flex::validated(match (self, &problem, &views, &cotangents, &mut found.as_written()) {
                    ($($in_backward),+) => $backward,
                });
                flex::tensors::<Self::Inputs>(found, shapes)
            }

            #[cfg(feature = "cube")]
            fn forward_cube(
                &self,
                inputs: $crate::backend::In<Self, burn_cubecl::tensor::CubeTensor>,
            ) -> $crate::backend::Out<Self, burn_cubecl::tensor::CubeTensor> {
                use $crate::backend::{by_kind, cube};
                let (place, specs) = (cube::Residence::of_first::<Self::Inputs>(&inputs), cube::specs::<Self::Inputs>(&inputs));
                let (problem, types) = (self.problem(&cube::shapes::<Self::Inputs>(&specs)), place.types());
                let held = inputs.map($(by_kind!($input =>
                    |operand, t| types.rows(operand, t),
                    |operand, t| types.values(operand, t)
                )),+);
                let found = cube::launched(match (self, &place.client, &problem, &held) {
                    ($($in_device_forward),+) => $device_forward,
                });
                place.tensors::<Self::Outputs>(found, self.results(specs))
            }

            #[cfg(feature = "cube")]
            fn backward_cube(
                &self,
                inputs: $crate::backend::In<Self, burn_cubecl::tensor::CubeTensor>,
                cotangents: $crate::backend::Out<Self, Option<burn_cubecl::tensor::CubeTensor>>,
            ) -> $crate::backend::In<Self, burn_cubecl::tensor::CubeTensor> {
                use $crate::backend::{by_kind, cube, seen};
                let (place, specs) = (cube::Residence::of_first::<Self::Inputs>(&inputs), cube::specs::<Self::Inputs>(&inputs));
                let (problem, types) = (self.problem(&cube::shapes::<Self::Inputs>(&specs)), place.types());
                let held = inputs.map($(by_kind!($input =>
                    |operand, t| types.rows(operand, t),
                    |operand, t| types.values(operand, t)
                )),+);
                let cotangents = cotangents.map($(by_kind!($result =>
                    |operand, t| seen!($number, t, |t| types.rows(operand, t)),
                    |operand, t| seen!($number, t, |t| types.values(operand, t))
                )),+);
                let found = cube::launched(match (self, &place.client, &problem, &held, &cotangents) {
                    ($($in_device_backward),+) => $device_backward,
                });
                place.tensors::<Self::Inputs>(found, specs)
            }
        }
    };
}
pub(crate) use over_rows;

/// The first for rows, the second for values.
macro_rules! by_kind {
    (R => (), ()) => {
        ()
    };
    (V => (), ()) => {
        ()
    };
    (R => $rows:expr, $values:expr) => {
        $rows
    };
    (V => $rows:expr, $values:expr) => {
        $values
    };
}
pub(crate) use by_kind;

/// What becomes of the cotangent of an only output, which is always given, or of one of several, which may be missing.
macro_rules! seen {
    (output, $cotangent:expr, $f:expr) => {
        ($f)($crate::backend::operands::required($cotangent))
    };
    (outputs, $cotangent:expr, $f:expr) => {
        $cotangent.map($f)
    };
    (&output, $held:expr, $f:expr) => {
        ($f)($held)
    };
    (&outputs, $held:expr, $f:expr) => {
        $held.as_ref().map($f)
    };
}
pub(crate) use seen;
