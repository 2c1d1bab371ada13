//! What operators over sequences have in common: an output, a state, and tensors `[batch, time, …]`.

/// Implements [`Operator`](super::Operator) by kernels whose declaration has a state. The output is like one of the inputs.
///
/// The operator has, beside what is given here,
///
/// - `problem(&self, &kernel::OperandsAndState<Vec<usize>, Vec<usize>>) -> kernel::Problem`, from the shapes of the inputs,
/// - with CubeCL, `types(&self, &kernel::OperandsAndState<Spec, Spec>) -> cube::Types`, in which the kernels take them.
///
/// `settings` are those of the kernel's declaration. The functions of `host` are those of the kernel on the CPU, with the operator
/// before their arguments; those of `device` likewise.
macro_rules! over_sequences {
    (
        $operator:ident as $this:ident, $name:expr, $kernel:ident;
        settings: [$($setting:expr),+];
        output like $like:ident;
        host: { forward: $forward:expr, backward: $backward:expr $(,)? }
        device: { $(admit: $admit:expr,)? forward: $device_forward:expr, backward: $device_backward:expr $(,)? }
    ) => {
        impl $crate::backend::Operator for $operator {
            type Inputs = $kernel::OperandsAndState<(), ()>;
            type Outputs = $kernel::Results<(), ()>;

            fn name(&self) -> &'static str {
                $name
            }

            fn outputs(
                &self,
                inputs: $crate::backend::In<Self, $crate::backend::Spec>,
            ) -> $crate::backend::Out<Self, $crate::backend::Spec> {
                $kernel::Results {
                    out: inputs.$like,
                    state: inputs.state,
                }
            }

            fn forward_flex(
                &self,
                mut inputs: $crate::backend::In<Self, burn_flex::FlexTensor>,
            ) -> $crate::backend::Out<Self, burn_flex::FlexTensor> {
                use $crate::backend::flex::{self, RowTensor, contiguous, shape, slice};
                let $this = self;
                let shapes = inputs.as_ref().map(|_, tensor| shape(tensor), |_, tensor| shape(tensor));
                let problem = self.problem(&shapes);
                // Alone, so that the kernel may update it in place.
                let state = std::mem::replace(&mut inputs.state, flex::tensor(Vec::new(), &[0]));
                let held = inputs.map(|_, tensor| RowTensor::of_tokens(tensor), |_, tensor| contiguous(tensor));
                let views = held.as_ref().map(|_, rows| rows.view(), |_, values| slice(values));
                let (inputs, _) = views.without_state($($setting),+);
                let (out, state) = flex::with_state(state, &shapes.$like, |state, out| {
                    ($forward)(self, &problem, &inputs, state, out)
                });
                $kernel::Results { out, state }
            }

            fn backward_flex(
                &self,
                inputs: $crate::backend::In<Self, burn_flex::FlexTensor>,
                cotangents: $crate::backend::Out<Self, Option<burn_flex::FlexTensor>>,
            ) -> $crate::backend::In<Self, burn_flex::FlexTensor> {
                use $crate::backend::{flex::{self, RowTensor, contiguous, shape, slice}, operands::required};
                let $this = self;
                let shapes = inputs.as_ref().map(|_, tensor| shape(tensor), |_, tensor| shape(tensor));
                let problem = self.problem(&shapes);
                let mut found = inputs
                    .as_ref()
                    .map(|_, tensor| flex::buffer(tensor), |_, tensor| flex::buffer(tensor));
                let held = inputs.map(|_, tensor| RowTensor::of_tokens(tensor), |_, tensor| contiguous(tensor));
                let views = held.as_ref().map(|_, rows| rows.view(), |_, values| slice(values));
                let (inputs, state) = views.without_state($($setting),+);
                let cotangents = cotangents.map(
                    |_, out| RowTensor::of_tokens(required(out)),
                    |_, state| state.map(contiguous),
                );
                let cotangents = cotangents
                    .as_ref()
                    .map(|_, out| out.view(), |_, state| state.as_ref().map(slice));
                flex::validated(($backward)(
                    self, &problem, &inputs, state, &cotangents, &mut found.as_written(),
                ));
                flex::tensors::<Self::Inputs>(found, shapes)
            }

            $(
                #[cfg(feature = "cube")]
                fn admit_cube(
                    &self,
                    client: &spillway_kernel_dsl::cube::Client,
                    inputs: $crate::backend::In<Self, $crate::backend::Spec>,
                ) -> std::result::Result<(), spillway_kernel_dsl::cube::Error> {
                    ($admit)(self, client, inputs)
                }
            )?

            #[cfg(feature = "cube")]
            fn forward_cube(
                &self,
                inputs: $crate::backend::In<Self, burn_cubecl::tensor::CubeTensor>,
            ) -> $crate::backend::Out<Self, burn_cubecl::tensor::CubeTensor> {
                use $crate::backend::cube;
                let $this = self;
                let (place, specs) = (cube::Residence::of(&inputs.state), cube::specs::<Self::Inputs>(&inputs));
                let problem = self.problem(&specs.as_ref().map(|_, s| s.shape.clone(), |_, s| s.shape.clone()));
                let types = self.types(&specs);
                let held = inputs.map(
                    |operand, tensor| types.rows(operand, tensor),
                    |operand, tensor| types.values(operand, tensor),
                );
                let (inputs, state) = held.without_state($($setting),+);
                let found = cube::launched(($device_forward)(
                    self, &place.client, &problem, &inputs, Some(&state),
                ));
                place.tensors::<Self::Outputs>(found, $crate::backend::Operator::outputs(self, specs))
            }

            #[cfg(feature = "cube")]
            fn backward_cube(
                &self,
                inputs: $crate::backend::In<Self, burn_cubecl::tensor::CubeTensor>,
                cotangents: $crate::backend::Out<Self, Option<burn_cubecl::tensor::CubeTensor>>,
            ) -> $crate::backend::In<Self, burn_cubecl::tensor::CubeTensor> {
                use $crate::backend::{cube, operands::required};
                let $this = self;
                let (place, specs) = (cube::Residence::of(&inputs.state), cube::specs::<Self::Inputs>(&inputs));
                let problem = self.problem(&specs.as_ref().map(|_, s| s.shape.clone(), |_, s| s.shape.clone()));
                let types = self.types(&specs);
                let held = inputs.map(
                    |operand, tensor| types.rows(operand, tensor),
                    |operand, tensor| types.values(operand, tensor),
                );
                let (inputs, state) = held.without_state($($setting),+);
                let cotangents = cotangents.map(
                    |operand, out| types.rows(operand, required(out)),
                    |operand, state| state.map(|state| types.values(operand, state)),
                );
                let found = cube::launched(($device_backward)(
                    self, &place.client, &problem, &inputs, Some(&state), &cotangents,
                ));
                place.tensors::<Self::Inputs>(found, specs)
            }
        }
    };
}
pub(crate) use over_sequences;
