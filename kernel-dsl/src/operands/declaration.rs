//! The declaration of an operator: structs of its operands, and what each of them is held as. The module's page says what it makes.

/// Inputs, output and state of an operator, and what each of them is held as.
macro_rules! operator {
    // An operator with a state.
    (
        $operator:literal, $problem:ty as $p:ident, $n:ident;
        $(#[$about_inputs:meta])*
        inputs<$($input:ident),+> {
            $($(#[$doc:meta])* $field:ident: $kind:ident $(<$inner:ident>)? [$($size:expr),+]),+ $(,)?
        }
        $(settings<$lt:lifetime> { $($(#[$setting_doc:meta])* $setting:ident: $setting_type:ty),+ $(,)? })?
        $(#[$about_output:meta])* output<R> { $($output:tt)+ }
        $(#[$about_state:meta])* state[$state_len:expr]
    ) => {
        pub(super) const OPERATOR: $crate::shape::Operator = $crate::shape::Operator($operator);

        $crate::operands::operands! {
            $problem as $p, $n;
            $(#[$about_inputs])*
            Operands<$($input),+> {
                $($(#[$doc])* $field: $kind $(<$inner>)? [$($size),+],)+
            }
            $(settings<$lt> { $($(#[$setting_doc])* $setting: $setting_type,)+ })?
        }
        $crate::operands::operands! {
            $problem as $p, $n;
            /// [`Operands`], and the state before the first token.
            OperandsAndState<R, V> {
                $($(#[$doc])* $field: $kind $(<$inner>)? [$($size),+],)+
                $(#[$about_state])* state: Values[$state_len],
            }
        }
        $crate::operands::operands! {
            $problem as $p, $n;
            $(#[$about_output])* Results<R, V> { $($output)+ $(#[$about_state])* state: Values[$state_len] }
        }
        $crate::operands::with_state! {
            [$($input),+] [$($field)+] [$($lt { $($setting: $setting_type)+ })?]
        }
        $crate::operands::inputs! { <$($input),+> [$($lt)?] }

        /// Derivatives of the loss by what the operator reads, overwritten. Those of optional operands may be left out.
        pub type Gradients<'a, T = f32> = OperandsAndState<&'a mut [T], &'a mut [T]>;
        /// [`Gradients`] in memory of their own.
        pub type GradientBuffers<T = f32> = OperandsAndState<Vec<T>, Vec<T>>;
        /// Derivatives of the loss by what the operator gives; none by a state that the loss does not see.
        pub type Cotangents<'a> = Results<$crate::Rows<'a>, Option<&'a [f32]>>;

        /// As [`Gradients`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceGradients = OperandsAndState<$crate::cube::DeviceBuffer, $crate::cube::DeviceBuffer>;
        /// What the operator gives on a device: the state after the last token in f32, rows of no sequence 0.
        #[cfg(feature = "cube")]
        pub type DeviceOutputs = Results<$crate::cube::DeviceBuffer, $crate::cube::DeviceBuffer>;
        /// As [`Cotangents`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceCotangents = Results<$crate::cube::DeviceRows, Option<$crate::cube::DeviceBuffer>>;

        #[allow(dead_code, reason = "not every operator has a backward pass")]
        impl $problem {
            /// Compares inputs with the shapes that the problem asks for.
            pub(super) fn expect_inputs(&self, inputs: &Inputs, $n: usize) -> Result<(), $crate::shape::ShapeError> {
                inputs.expect(&OPERATOR.in_role($crate::shape::Role::Value), &inputs.extents(self, $n))
            }

            /// Compares the initial state, and what comes with the inputs of a backward pass, with the shapes that they ask for.
            pub(super) fn expect_backward<T>(
                &self,
                inputs: &Inputs,
                state_len: usize,
                cotangents: &Cotangents,
                gradients: &Gradients<T>,
                $n: usize,
            ) -> Result<(), $crate::shape::ShapeError> {
                use $crate::shape::Role;
                let $p = self;
                OPERATOR.values("state", $state_len, state_len)?;
                cotangents.expect(&OPERATOR.in_role(Role::Cotangent), &cotangents.extents(self, $n))?;
                let extents = inputs.extents(self, $n).with_state($state_len);
                gradients.expect(&OPERATOR.in_role(Role::Gradient), &extents)
            }

            /// Compares what there is on a device with the shapes that the problem asks for, and its types with these.
            #[cfg(feature = "cube")]
            pub(super) fn expect_on_device(
                &self,
                inputs: &DeviceInputs,
                state: Option<&$crate::cube::DeviceBuffer>,
                cotangents: Option<&DeviceCotangents>,
                types: $crate::operands::ElementTypes,
                $n: usize,
            ) -> Result<(), $crate::cube::Error> {
                use $crate::shape::Role;
                let $p = self;
                inputs.expect(&OPERATOR.on_device(Role::Value, types), &inputs.extents(self, $n))?;
                $crate::cube::expect_state(OPERATOR, $state_len, state)?;
                cotangents.map_or(Ok(()), |cotangents| {
                    cotangents.expect(&OPERATOR.on_device(Role::Cotangent, types), &cotangents.extents(self, $n))
                })
            }
        }
    };

    // An operator without a state.
    (
        $operator:literal, $problem:ty as $p:ident $(, $n:ident)?;
        $(#[$about_inputs:meta])* inputs<$($input:ident),+> { $($inputs:tt)* }
        $(#[$about_outputs:meta])* $outputs_or_output:ident<$($output:ident),+> { $($outputs:tt)* }
    ) => {
        pub(super) const OPERATOR: $crate::shape::Operator = $crate::shape::Operator($operator);

        $crate::operands::operands! {
            $problem as $p $(, $n)?; $(#[$about_inputs])* Operands<$($input),+> { $($inputs)* }
        }
        $crate::operands::operands! {
            $problem as $p $(, $n)?; $(#[$about_outputs])* Results<$($output),+> { $($outputs)* }
        }
        $crate::operands::inputs! { <$($input),+> [] }

        /// Derivatives of the loss by what the operator reads, overwritten. Those of optional operands may be left out.
        pub type Gradients<'a, T = f32> = $crate::operands::held!(Operands<$($input),+>, &'a mut [T], &'a mut [T]);
        /// [`Gradients`] in memory of their own.
        pub type GradientBuffers<T = f32> = $crate::operands::held!(Operands<$($input),+>, Vec<T>, Vec<T>);
        /// What the operator writes; see [`Results`].
        pub type Outputs<'a> = $crate::operands::held!(Results<$($output),+>, &'a mut [f32], &'a mut [f32]);
        $crate::operands::cotangents! { $outputs_or_output <$($output),+> }

        /// As [`Gradients`], on a device: rows in the type of their operand, values in f32.
        #[cfg(feature = "cube")]
        pub type DeviceGradients =
            $crate::operands::held!(Operands<$($input),+>, $crate::cube::DeviceBuffer, $crate::cube::DeviceBuffer);
        /// As [`Outputs`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceOutputs =
            $crate::operands::held!(Results<$($output),+>, $crate::cube::DeviceBuffer, $crate::cube::DeviceBuffer);

        #[allow(dead_code, reason = "not every operator has a backward pass, or writes into what its caller holds")]
        impl $problem {
            /// Compares inputs with the shapes that the problem asks for.
            pub(super) fn expect_inputs(
                &self,
                inputs: &Inputs,
                $($n: usize,)?
            ) -> Result<(), $crate::shape::ShapeError> {
                inputs.expect(&OPERATOR.in_role($crate::shape::Role::Value), &inputs.extents(self $(, $n)?))
            }

            /// Compares what is written with the shapes that the problem asks for.
            pub(super) fn expect_outputs(
                &self,
                outputs: &Outputs,
                $($n: usize,)?
            ) -> Result<(), $crate::shape::ShapeError> {
                outputs.expect(&OPERATOR.in_role($crate::shape::Role::Value), &outputs.extents(self $(, $n)?))
            }

            /// Compares what comes with the inputs of a backward pass with the shapes that they ask for.
            pub(super) fn expect_backward<T>(
                &self,
                inputs: &Inputs,
                cotangents: &Cotangents,
                gradients: &Gradients<T>,
                $($n: usize,)?
            ) -> Result<(), $crate::shape::ShapeError> {
                use $crate::shape::Role;
                cotangents.expect(&OPERATOR.in_role(Role::Cotangent), &cotangents.extents(self $(, $n)?))?;
                gradients.expect(&OPERATOR.in_role(Role::Gradient), &inputs.extents(self $(, $n)?))
            }

            /// Compares what there is on a device with the shapes that the problem asks for, and its types with these.
            #[cfg(feature = "cube")]
            pub(super) fn expect_on_device(
                &self,
                inputs: &DeviceInputs,
                cotangents: Option<&DeviceCotangents>,
                types: $crate::operands::ElementTypes,
                $($n: usize,)?
            ) -> Result<(), $crate::cube::Error> {
                use $crate::shape::Role;
                inputs.expect(&OPERATOR.on_device(Role::Value, types), &inputs.extents(self $(, $n)?))?;
                cotangents.map_or(Ok(()), |cotangents| {
                    cotangents.expect(&OPERATOR.on_device(Role::Cotangent, types), &cotangents.extents(self $(, $n)?))
                })
            }
        }
    };
}
pub(crate) use operator;

/// What is read, in memory and on devices.
macro_rules! inputs {
    (<$($input:ident),+> [$($lt:lifetime)?]) => {
        /// What the operator reads in memory; see [`Operands`].
        pub type Inputs<'a> = $crate::operands::held!(
            Operands<$($input),+>, $crate::Rows<'a>, &'a [f32] $(, 'a as $lt)?
        );
        /// As [`Inputs`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceInputs<$($lt)?> = $crate::operands::held!(
            Operands<$($input),+>, $crate::cube::DeviceRows, $crate::cube::DeviceBuffer $(, $lt as $lt)?
        );
    };
}
pub(crate) use inputs;

/// What a backward pass of an operator without a state begins with: always something where there is one output.
macro_rules! cotangents {
    (output<$($output:ident),+>) => {
        /// Derivatives of the loss by what the operator writes.
        pub type Cotangents<'a> = $crate::operands::held!(Results<$($output),+>, $crate::Rows<'a>, &'a [f32]);
        /// As [`Cotangents`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceCotangents =
            $crate::operands::held!(Results<$($output),+>, $crate::cube::DeviceRows, $crate::cube::DeviceBuffer);
    };
    (outputs<$($output:ident),+>) => {
        /// Derivatives of the loss by what the operator writes; nothing where the loss does not see it.
        pub type Cotangents<'a> =
            $crate::operands::held!(Results<$($output),+>, Option<$crate::Rows<'a>>, Option<&'a [f32]>);
        /// As [`Cotangents`], on a device.
        #[cfg(feature = "cube")]
        pub type DeviceCotangents = $crate::operands::held!(
            Results<$($output),+>,
            Option<$crate::cube::DeviceRows>,
            Option<$crate::cube::DeviceBuffer>
        );
    };
}
pub(crate) use cotangents;

/// The type of operands whose rows are held as the first type and whose values, if there are any, as the second.
macro_rules! held {
    ($name:ident<R>, $rows:ty, $values:ty $(, $lt:lifetime as $any:lifetime)?) => { $name<$($lt,)? $rows> };
    ($name:ident<V>, $rows:ty, $values:ty) => { $name<$values> };
    ($name:ident<R, V>, $rows:ty, $values:ty $(, $lt:lifetime as $any:lifetime)?) => { $name<$($lt,)? $rows, $values> };
}
pub(crate) use held;

/// Operands with the state, and without it.
macro_rules! with_state {
    ([R] $($rest:tt)+) => { $crate::operands::with_state! { @impl [R] [V] $($rest)+ } };
    ([R, V] $($rest:tt)+) => { $crate::operands::with_state! { @impl [R, V] [] $($rest)+ } };
    (
        @impl [$($held:ident),+] [$($state:ident)?] [$($field:ident)+]
        [$($lt:lifetime { $($setting:ident: $setting_type:ty)+ })?]
    ) => {
        impl<$($lt,)? $($held),+> Operands<$($lt,)? $($held),+> {
            /// These operands, and a state.
            pub fn with_state$(<$state>)?(self, state: V) -> OperandsAndState<R, V> {
                OperandsAndState { $($field: self.$field,)+ state }
            }
        }

        impl<R, V> OperandsAndState<R, V> {
            /// The operands, and the state.
            pub fn without_state$(<$lt>)?(self, $($($setting: $setting_type),+)?) -> (Operands<$($lt,)? $($held),+>, V) {
                (Operands { $($field: self.$field,)+ $($($setting,)+)? }, self.state)
            }
        }
    };
}
pub(crate) use with_state;
